"""Where two runs of one recipe part: their flight recorders, compared step by step.

On the same layout everything is compared bit for bit, rank by rank. On another one tokens, masks and other whole
numbers are, sample by sample: which rank has a sample changes nothing of it. What models compute of them is added up in
another order there, so that all else is compared over all ranks, and to a tolerance.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias, get_args

from distft.report.recorded_update import Compared, Difference, Norms, Recorded, Stage
from distft.tracking.flight import RankTrace

Ranks: TypeAlias = Sequence[RankTrace]
Flight: TypeAlias = Mapping[int, Mapping[str, Ranks]]  # as ``read_flight`` gives it

# Sums of the same float32 numbers in another order are some 1e-7 apart, of 16 bits 1e-3; Adam makes more of that where
# a gradient is nearly zero, so that it grows from step to step.
FLOAT32, SIXTEEN_BITS = 1e-4, 2e-2


@dataclass(frozen=True)
class Found:
    """A difference, and where it is: ``update`` is the optimizer step within the step, from 1, of ``num_updates``."""

    step: int
    role: str
    update: int
    num_updates: int
    what: Difference


@dataclass(frozen=True)
class Bisected:
    """``steps``: those that both have recorded; ``equal_until``: the last of them before the first difference, 0: none.
    ``found``: all that differs in the first step in which something does, causes first. ``layouts``: by role how those
    of the two differ; ``tolerances``: to what shares it is compared. ``alone``: how many steps the one run has
    recorded and the other has not, and the other way round."""

    steps: tuple[int, ...]
    equal_until: int
    found: tuple[Found, ...]
    layouts: Mapping[str, str]
    tolerances: Mapping[str, float]
    alone: tuple[int, int]

    def as_json(self) -> dict[str, Any]:
        """For scripts."""
        return {
            "format": 1,
            "first_step": self.steps[0],
            "last_step": self.steps[-1],
            "num_steps": len(self.steps),
            "alone": list(self.alone),
            "layouts": dict(self.layouts),
            "tolerances": dict(self.tolerances),
            "equal_until": self.equal_until,
            "differences": [
                {**{name: value for name, value in vars(one).items() if name != "what"}, **asdict(one.what)}
                for one in self.found
            ],
        }


def bisect(one: Flight, other: Flight, tolerance: float | None = None) -> Bisected:
    """Compares up to the first step that differs; there must be one in both. ``tolerance``: of what is computed, as a
    share, on the same layout too; None: bit for bit there, on another one what fits the model's precision."""
    steps = tuple(sorted(one.keys() & other.keys()))
    layouts: dict[str, str] = {}
    tolerances: dict[str, float] = {}
    until, found = 0, []
    for step in steps:
        for role in {**one[step], **other[step]}:
            mine, theirs = one[step].get(role, ()), other[step].get(role, ())
            layout = _layouts(mine, theirs) if mine and theirs else ""
            allowed = tolerance if tolerance is not None else _usual(mine) if layout else 0.0
            if layout:
                layouts.setdefault(role, layout)
            if allowed:
                tolerances[role] = allowed
            first, second = (
                _recorded(ranks, flight.get(step - 1, {}).get(role, ()))
                for ranks, flight in ((mine, one), (theirs, other))
            )
            count = max(len(first), len(second))
            pairs = zip(first, second, strict=False)
            for number, pair in enumerate(pairs, 1):
                compared = Compared(*pair, bool(layout), allowed)
                found += [Found(step, role, number, count, what) for what in compared.differences()]
            if len(first) != len(second):
                what = Difference("optimizer steps", f"{len(first)} in the first run, {len(second)} in the second")
                found.append(Found(step, role, min(len(first), len(second)) + 1, count, what))
        if found:
            break
        until = step
    found.sort(key=lambda one: (one.update, get_args(Stage).index(one.what.stage)))
    alone = (len(one.keys() - other.keys()), len(other.keys() - one.keys()))
    return Bisected(steps, until, tuple(found), layouts, tolerances, alone)


def _recorded(ranks: Ranks, former: Ranks) -> list[Recorded]:
    """The optimizer steps of a step. ``former``: what the ranks recorded of the step before, if they did."""
    before: Norms | None = None
    if len(former) == len(ranks) and all(rank.updates for rank in former):
        before = [rank.updates[-1].weights for rank in former]
    made = []
    for number in range(len(ranks[0].updates) if ranks else 0):
        updates = [rank.updates[number] for rank in ranks]
        told = [update.before for update in updates if update.before is not None]
        made.append(
            Recorded(updates, ranks[0].zero_stage, ranks[0].shared_by, told if len(told) == len(ranks) else before)
        )
        before = [update.weights for update in updates]
    return made


def _layouts(one: Ranks, other: Ranks) -> str:
    """How two layouts differ, in words; empty where they do not."""
    words = [_layout(ranks) for ranks in (one, other)]
    if words[0] != words[1]:
        return f"{words[0]} in the first run, {words[1]} in the second"
    if all(mine == theirs for mine, theirs in zip(_dealt(one), _dealt(other), strict=False)):
        return ""
    return f"{words[0]} in both, but samples are dealt to other ranks or micro-batches"


def _layout(ranks: Ranks) -> str:
    shared = f", {ranks[0].shared_by} to a row" if ranks[0].shared_by > 1 else ""
    return f"{len(ranks)} rank{'s' if len(ranks) > 1 else ''} at ZeRO stage {ranks[0].zero_stage}{shared}"


def _dealt(ranks: Ranks) -> Iterator[tuple[tuple[int, ...], ...] | None]:
    return (update.micro_batches for rank in ranks for update in rank.updates)


def _usual(ranks: Ranks) -> float:
    return FLOAT32 if ranks[0].dtype == "float32" else SIXTEEN_BITS
