"""Warnings of the verbs, on standard error: standard output is for results."""

from __future__ import annotations

import sys
from collections.abc import Iterable


def warn(texts: Iterable[str]) -> None:
    """A line each."""
    for text in texts:
        print(f"distft: warning: {text}", file=sys.stderr)
