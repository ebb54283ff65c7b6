"""Slow, plain, single-process references that the distributed code is compared with."""
