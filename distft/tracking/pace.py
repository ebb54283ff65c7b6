"""How long the steps that are left will take."""

from __future__ import annotations

import time
from collections import deque

_STEPS = 20


class Pace:
    """Seconds per step over the last steps of this process: a resumed run does not count what it did not do."""

    def __init__(self) -> None:
        self._marks: deque[tuple[int, float]] = deque(maxlen=_STEPS)

    def observe(self, step: int) -> None:
        """A step is done."""
        self._marks.append((step, time.monotonic()))

    def left(self, step: int, total: int | None) -> float | None:
        """Seconds; None where nothing can be said yet, or no step is left."""
        first, since = self._marks[0]
        if total is None or not first < step < total:
            return None
        return (time.monotonic() - since) / (step - first) * (total - step)
