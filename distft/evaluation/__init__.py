"""Held-out metrics, before and after and in between."""
