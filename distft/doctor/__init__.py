"""``distft doctor``: what a run needs, looked at on every node before GPUs are spent."""
