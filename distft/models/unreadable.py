"""What is said of a model folder or hub name that cannot be read."""

from __future__ import annotations

COPY = "is it a whole model folder, or the name of one on the hub?"


def hint(error: Exception) -> str:
    """What to do about it."""
    custom = "trust_remote_code" in str(error)
    return "trust_remote_code: true beside the path runs it; read it first" if custom else COPY


def first_line(error: BaseException) -> str:
    """What the library said."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
