"""Optimizer steps that are left out because their loss or gradient is no number: how many batches in a row may have it.

A row or a number too large for its precision passes with its batch; weights that have gone astray do not, whatever the
batch. So a step is left out, and a few batches in a row end the run (``recovery.max_skipped_steps``). Where a batch is
taken in several optimizer steps (PPO: epochs x minibatches) it counts once, however many of them are left out; a row
ends with a step that is taken.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from distft.engine.diverged import Diverged


def batches_in_a_row(before: int, reasons: Sequence[str]) -> int:
    """How many batches the row that is under way has, with ``before`` of them behind and this batch's optimizer steps:
    of each why it was left out, "" of one that was taken."""
    row, counted = before, False
    for reason in reasons:
        row, counted = (row if counted else row + 1, True) if reason else (0, False)
    return row


@dataclass
class Skipping:
    """Of one batch, whose steps may be left out while the row has at most ``most`` batches, ``before`` of them behind.
    ``reasons``: of each step why it was left out, "" of one that was taken."""

    most: int = 0
    before: int = 0
    reasons: list[str] = field(default_factory=list)

    def saw(self, failure: Diverged | None) -> None:
        """A step, which was left out where it failed. Raises the failure where its batch is one too many."""
        self.reasons.append("" if failure is None else failure.what)
        row = batches_in_a_row(self.before, self.reasons)
        if failure is not None and row > self.most:
            raise failure.after(row - 1)
