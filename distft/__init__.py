"""distft: align and fine-tune language models on clusters."""

__version__ = "0.1.0"
