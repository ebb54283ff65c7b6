"""What depends on what a model is: one file a family, behind one Protocol."""
