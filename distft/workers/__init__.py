"""One rank of one role, and the data worker. Plain classes: no Ray, runnable under torchrun."""
