"""What is trained in place of all weights: one file a kind, named as its ``method`` (see ``adapter.py``)."""
