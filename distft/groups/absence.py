"""Time in which nobody looked for answers is no silence of those who were asked.

A driver that is stopped (Ctrl-Z, a debugger, a virtual machine that is moved) looks at the clock when it goes on, and
finds every deadline past, while the answers lie in sockets that it has not read yet.
"""

from __future__ import annotations

import time

_MUCH_S = 5.0  # between two looks: more than a busy machine keeps a process from running


class Absence:
    """Of this process, from look to look. ``usual_s``: what lies between two looks, at most, where it is there."""

    def __init__(self, usual_s: float) -> None:
        self._usual_s, self._last = usual_s, time.monotonic()

    def missed(self, now: float) -> float:
        """Seconds, since the last call, in which nobody looked; 0.0 where that is usual. ``now``: monotonic."""
        seconds, self._last = now - self._last - self._usual_s, now
        return seconds if seconds > _MUCH_S else 0.0
