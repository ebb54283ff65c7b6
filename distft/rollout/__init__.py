"""Prompts to responses."""
