"""Checks before anything is started: what would fail after minutes of loading fails here in a second."""
