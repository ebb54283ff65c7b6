"""Which units each step takes, and where an epoch and the training end: pure, from positions alone.

A position counts the units visited since the beginning; the sampler makes an epoch's order of it. At an epoch's end
fewer units than a batch may be left, and ``train.last_batch`` says what is done with them:

=========  =============================================================================================
smaller    they are a smaller batch: an epoch visits every unit once (the default with ``train.epochs``)
drop       they are passed over: every batch is whole
fill       the batch takes the rest from the next epoch: every batch is whole and nothing is passed over, but steps
           and epochs do not meet (the default with ``train.steps``, which counts steps and nothing else)
=========  =============================================================================================

A run that has gone back before a spike passes over what led to it (``rollback``): where that begins, the next batch is
the one behind it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from distft.common.errors import UserError
from distft.config.training import Train


@dataclass(frozen=True)
class Visits:
    """``num_units`` of an epoch in batches of ``batch``; ``until`` is the position where training ends, if one does;
    ``left_out``: positions at which something begins that is passed over, and those behind it."""

    num_units: int
    batch: int
    last_batch: Literal["smaller", "drop", "fill"]
    until: int | None = None
    left_out: Mapping[int, int] = field(default_factory=dict)

    @classmethod
    def of(cls, train: Train, num_units: int, left_out: Mapping[int, int] | None = None) -> Visits:
        """As the recipe says. UserError where an epoch would have no batch at all."""
        by_steps = train.epochs is None
        last_batch = train.last_batch or ("fill" if by_steps else "smaller")
        if last_batch == "drop" and num_units < train.global_batch_size:
            raise UserError(
                f"an epoch of {num_units} rows has no batch of {train.global_batch_size}: every row would be dropped",
                where="train.last_batch",
                hint=f"train.last_batch=smaller, or train.global_batch_size={num_units}",
            )
        until = None if train.epochs is None else max(1, round(train.epochs * num_units))
        return cls(num_units, train.global_batch_size, last_batch, until, left_out or {})

    def take(self, position: int) -> tuple[int, int]:
        """Where the batch that comes next at ``position`` starts, and how many units it has."""
        position = self._past(position)
        if self.last_batch == "fill":
            return position, self.batch
        end = (position // self.num_units + 1) * self.num_units
        if self.last_batch == "drop":
            return (position, self.batch) if position + self.batch <= end else (end, self.batch)
        return position, min(self.batch, (end if self.until is None else min(end, self.until)) - position)

    def position_after(self, steps: int, position: int = 0) -> int:
        """Where the training stands so many steps after ``position``."""
        for _ in range(steps):
            start, count = self.take(position)
            position = start + count
        return position

    def steps_left(self, position: int) -> int:
        """How many batches there are from ``position`` to the end; ValueError where there is no end."""
        if self.until is None:
            raise ValueError("training by steps ends at no position")
        position = self._past(position)
        gap = min((start for start in self.left_out if start > position), default=self.until)
        if gap >= self.until:
            return self._steps_between(position, self.until)
        return self._steps_between(position, gap) + self.steps_left(gap)

    def _past(self, position: int) -> int:
        """The first position from this one on that is not left out."""
        for start, end in sorted(self.left_out.items()):
            if start <= position < end:
                position = end
        return position

    def _steps_between(self, position: int, until: int) -> int:
        if self.last_batch == "fill":
            return math.ceil(max(0, until - position) / self.batch)
        steps = 0
        while position < until:
            end = min((position // self.num_units + 1) * self.num_units, until)
            whole, rest = divmod(end - position, self.batch)
            steps += whole + (self.last_batch == "smaller" and rest > 0)
            position = end
        return steps


def total_steps(
    train: Train, num_units: int, *, step: int = 0, position: int = 0, left_out: Mapping[int, int] | None = None
) -> int:
    """``train.steps``, or what ``train.epochs`` come to for a run that stands at a step and position. UserError for
    none."""
    if train.steps is not None:
        return train.steps
    steps = step + Visits.of(train, num_units, left_out).steps_left(position)
    if not steps:
        raise UserError(
            f"{train.epochs:g} epochs of {num_units} rows have no whole batch of {train.global_batch_size}",
            where="train.epochs",
            hint="train.last_batch=smaller, or a smaller train.global_batch_size",
        )
    return steps
