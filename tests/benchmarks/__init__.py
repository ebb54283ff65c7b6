"""Measures of speed, run by hand: nothing here is a test."""
