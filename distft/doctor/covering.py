"""Which cells to run so that whatever goes together has met once: a covering array."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from itertools import combinations
from typing import Final, TypeAlias

from distft.doctor.support import Cell, Verdict

# Three axes whose every combination is met, beside all pairs.
TRIPLE: Final = ("method", "family", "adapter")
Meeting: TypeAlias = tuple[tuple[str, str], ...]


def meetings(cell: Cell) -> frozenset[Meeting]:
    """The values that meet in a cell: every pair, and the ``TRIPLE``."""
    chosen = asdict(cell)
    return frozenset((*combinations(chosen.items(), 2), tuple((axis, chosen[axis]) for axis in TRIPLE)))


def covering_array(verdicts: Mapping[Cell, Verdict]) -> list[Cell]:
    """Cells in which every meeting that is allowed anywhere happens, those that bring most new ones first (greedy, and
    the same for the same verdicts)."""
    allowed = {cell: meetings(cell) for cell, verdict in verdicts.items() if not verdict.refusals}
    missing = set[Meeting]().union(*allowed.values())
    found = []
    while missing:
        best = max(allowed, key=lambda cell: len(allowed[cell] & missing))
        found.append(best)
        missing -= allowed.pop(best)
    return found


def run_by_tests(verdicts: Mapping[Cell, Verdict]) -> list[Cell]:
    """The covering array of what generates on the policy's own ranks, in the order in which
    ``tests/e2e/test_support_matrix.py`` trains its cells."""
    return covering_array({cell: verdict for cell, verdict in verdicts.items() if cell.engine == "hf"})
