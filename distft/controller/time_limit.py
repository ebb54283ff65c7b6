"""The end of a job's time, seen before it comes: a step that could not be saved any more is not begun."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

END_TIME = "DISTFT_END_TIME"  # unix seconds; the launcher sets it for the driver
MARGIN_S = 20.0  # for ending the workers and the nodes, and for clocks that do not quite agree


@dataclass
class TimeLimit:
    """``end``: when the job's time is over (unix seconds), None for no limit. Longest durations seen, in seconds."""

    end: float | None = None
    longest_step: float = 0.0
    longest_save: float = 0.0
    clock: Callable[[], float] = field(default=time.time, repr=False)

    @classmethod
    def of(cls, environment: Mapping[str, str] = os.environ) -> TimeLimit:
        """From DISTFT_END_TIME; what is no number there means no limit."""
        try:
            return cls(float(environment[END_TIME]))
        except (KeyError, ValueError):
            return cls()

    def saw_step(self, seconds: float) -> None:
        """A step, evaluation and checkpoint included, took so long."""
        self.longest_step = max(self.longest_step, seconds)

    def saw_save(self, seconds: float) -> None:
        """A checkpoint took so long."""
        self.longest_save = max(self.longest_save, seconds)

    def too_near(self, *, settling: bool = False, beside: bool = False) -> str:
        """Why the run should stop now, "" while another step as long as the longest, and a save, still fit.

        Before the first save its length is not known; it is taken to be that of a step. ``settling``: one must have
        ended before that step begins. ``beside``: one is written beside it, and must have ended before the last.
        """
        if self.end is None:
            return ""
        left = self.end - self.clock()
        save = self.longest_save or self.longest_step
        step = max(self.longest_step, save) if beside else self.longest_step
        if left >= (save if settling else 0.0) + step + save + MARGIN_S:
            return ""
        return (
            f"{max(0.0, left):.0f} s of the job's time are left, a step takes up to {self.longest_step:.1f} s "
            f"and a checkpoint {save:.1f} s"
        )
