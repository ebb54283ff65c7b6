"""``distft doctor --matrix``: which methods train which models, and which of the other choices do not go together.

All cells are asked (see ``support``). What is refused is told by the fewest choices that cause it: two that do not go
together are one line, and not one for each of the cells in which they meet.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from distft.doctor.covering import run_by_tests
from distft.doctor.support import Cell, Verdict, cells, verdict_of, write_config
from distft.models.families.table import EXAMPLES


@dataclass(frozen=True)
class Refusal:
    """Choices that are refused wherever they meet, none of which could be left out: ``choices`` by axis, of each all
    that are refused in the same words; ``why``: what a run is told, METHOD in it each of several methods."""

    choices: Mapping[str, tuple[str, ...]]
    why: str


@dataclass(frozen=True)
class Matrix:
    """The verdict of each cell, and the methods of which it is told."""

    verdicts: Mapping[Cell, Verdict]
    methods: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """For scripts: every cell of these methods."""
        run = set(run_by_tests(self.verdicts))
        found = [
            {
                **asdict(cell),
                "verdict": verdict.said,
                "why": [*verdict.refusals, *verdict.remarks],
                "run_by_tests": cell in run,
            }
            for cell, verdict in self._shown()
        ]
        return {"format": 1, "cells": found}

    def lines(self) -> list[str]:
        """For people: a row for each method, then a line for what else is refused."""
        counted = [verdict.said for _, verdict in self._shown()]
        width = max(map(len, ("method", *self.methods)))
        head = f"{'method':<{width}}  {'  '.join(EXAMPLES)}"
        rows = [
            f"{method:<{width}}  " + "  ".join(f"{self._best(method, family):<{len(family)}}" for family in EXAMPLES)
            for method in self.methods
        ]
        told = [line for refusal in minimal_refusals(dict(self._shown())) for line in _told(refusal)]
        run = sum(cell.method in self.methods for cell in run_by_tests(self.verdicts))
        allowed = len(counted) - counted.count("no")
        return [
            f"{allowed:,} of {len(counted):,} combinations of {', '.join(_axis(field.name) for field in fields(Cell))}"
            " can be trained.",
            f"{run:,} of them are, by the tests: of engine hf every two choices that go together are in one, and every "
            "method with each of its families and adapters.",
            "",
            head,
            *(row.rstrip() for row in rows),
            "",
            f"What does not go together{'' if len(self.methods) > 1 else f' in {self.methods[0]}'}, and what a run is "
            "told; all else does:",
            *told,
        ]

    def families(self, method: str) -> list[str]:
        """Those whose models a method trains, whatever else is chosen."""
        return [family for family in EXAMPLES if self._best(method, family) != "no"]

    def _best(self, method: str, family: str) -> str:
        said = {it.said for cell, it in self._shown() if (cell.method, cell.family) == (method, family)}
        return next(one for one in ("yes", "warning", "no") if one in said)

    def _shown(self) -> Iterator[tuple[Cell, Verdict]]:
        yield from ((cell, it) for cell, it in self.verdicts.items() if cell.method in self.methods)


def support_matrix(methods: Sequence[str]) -> Matrix:
    """The verdicts of all cells, to be told of these methods."""
    with tempfile.TemporaryDirectory(prefix="distft-") as named:
        for family in EXAMPLES:
            write_config(family, Path(named, family))
        return Matrix({cell: verdict_of(cell, Path(named, cell.family)) for cell in cells()}, tuple(methods))


def minimal_refusals(verdicts: Mapping[Cell, Verdict]) -> list[Refusal]:
    """The fewest choices that are refused wherever they meet, fewest first; none that follows from the others. A cell
    is refused exactly if it holds one of these. ``verdicts``: of a whole product, in its order."""
    names = [field.name for field in fields(Cell)]
    values = [tuple(dict.fromkeys(getattr(cell, name) for cell in verdicts)) for name in names]
    chosen = [asdict(cell) for cell in verdicts]
    told = [verdict.refusals for verdict in verdicts.values()]
    allowed = np.array([not refusals for refusals in told]).reshape(list(map(len, values)))
    found: list[dict[str, str]] = []
    for size in range(1, len(names) + 1):
        for some in combinations(range(len(names)), size):
            others = tuple(axis for axis in range(len(names)) if axis not in some)
            for at in np.argwhere(~allowed.any(axis=others)):
                choice = {names[axis]: values[axis][place] for axis, place in zip(some, at, strict=True)}
                if not any(smaller.items() <= choice.items() for smaller in found):
                    found.append(choice)
    holds = {number: np.array([choice.items() <= one.items() for one in chosen]) for number, choice in enumerate(found)}
    times = np.sum(list(holds.values()), axis=0, initial=0)
    for number in reversed(range(len(found))):
        if (times[holds[number]] > 1).all():  # wherever they meet something else is wrong as well
            times -= holds.pop(number)
    only = {number: np.flatnonzero(held & (times == 1)) for number, held in holds.items()}
    causes = [(found[number], min((told[cell] for cell in cells), key=len)[0]) for number, cells in only.items()]
    refusals = [Refusal({axis: (value,) for axis, value in choice.items()}, why) for choice, why in causes]
    for axis in names:
        refusals = _gathered(axis, refusals)
    return refusals


def _gathered(axis: str, refusals: Iterable[Refusal]) -> list[Refusal]:
    """Those that differ in that axis alone, also in what is said of it, as one."""
    found: dict[tuple[object, ...], Refusal] = {}
    for refusal in refusals:
        values = refusal.choices.get(axis, ())
        general = refusal.why
        for value in values:
            general = re.sub(rf"(?<![\w.]){re.escape(value)}(?!\w|'|\.\w)", axis.upper(), general)
        rest = tuple((key, chosen) for key, chosen in refusal.choices.items() if key != axis)
        before = found.setdefault((bool(values), rest, general), refusal)
        if before is not refusal:
            both = {**before.choices, axis: (*before.choices[axis], *values)}
            found[bool(values), rest, general] = Refusal(both, general)
    return list(found.values())


def _told(refusal: Refusal) -> Iterator[str]:
    yield "  " + " + ".join(f"{_axis(axis)} {' | '.join(chosen)}" for axis, chosen in refusal.choices.items())
    yield f"      {refusal.why}"


def _axis(name: str) -> str:
    return name.replace("_", " ")
