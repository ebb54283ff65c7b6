"""The jobs that work on a run: what they do, what they print, how they are stopped."""
