"""What is trained in place of all weights: one file a kind (see ``adapter.py``)."""
