"""What an optimizer step does with a gradient: one file a rule (see ``optimizer.py``)."""
