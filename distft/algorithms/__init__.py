"""Tensor mathematics: imports torch and itself only, so every formula is testable alone."""
