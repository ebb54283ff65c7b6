"""Waiting for what nobody announces: another process's file, its end, a port."""

from __future__ import annotations

import time
from collections.abc import Callable


def wait_until(done: Callable[[], bool], seconds: float, *, every_s: float = 0.1) -> bool:
    """Whether it is done within so many seconds: asked at once, and then every so often. What ``done`` raises ends it,
    and so it is where a waiter looks for reasons to give up."""
    until = time.monotonic() + seconds
    while not done():
        if time.monotonic() > until:
            return False
        time.sleep(every_s)
    return True
