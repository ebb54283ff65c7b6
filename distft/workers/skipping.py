"""Optimizer steps that are left out because their loss or gradient is no number: how many in a row may be.

A row or a number too large for its precision passes with its batch; weights that have gone astray do not, whatever the
batch. So a step is left out, and a row of them ends the run (``recovery.max_skipped_steps``).
"""

from __future__ import annotations

from dataclasses import dataclass, field

from distft.engine.diverged import Diverged


@dataclass
class Skipping:
    """At most ``most`` steps in a row; ``in_a_row`` so far, those of former updates among them. ``reasons``: of each
    step why it was left out, "" of one that was taken."""

    most: int = 0
    in_a_row: int = 0
    reasons: list[str] = field(default_factory=list)

    def saw(self, failure: Diverged | None) -> None:
        """A step, which was left out where it failed. Raises the failure where it is one too many."""
        if failure is not None and self.in_a_row >= self.most:
            raise failure.after(self.in_a_row)
        self.in_a_row = 0 if failure is None else self.in_a_row + 1
        self.reasons.append("" if failure is None else failure.what)
