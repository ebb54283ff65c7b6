"""From responses or pairs to training tensors, and their order on the ranks."""
