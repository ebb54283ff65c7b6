"""How sure a metric is: bootstrap intervals, and a paired test of two models on the same rows. Pure; numpy only."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from distft.evaluation.measures import Measure, Numbers

RESAMPLES = 1000
LEVEL = 0.95
_AT_ONCE = 2**22  # numbers of weights in memory: 32 MB
_ROUNDING = 1e-12


@dataclass(frozen=True)
class Estimate:
    """A metric and its interval at ``LEVEL``."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Difference:
    """By how much the second model's metric is above the first's, with its interval, and the probability of a
    difference as large if the two were interchangeable."""

    value: float
    low: float
    high: float
    p: float


def estimate(measure: Measure, *, resamples: int = RESAMPLES, level: float = LEVEL, seed: int = 1) -> Estimate:
    """The percentile interval of the bootstrap (Efron 1979): rows are drawn with replacement, as many as there are, and
    the interval holds the middle ``level`` of the values that ``resamples`` such draws give."""
    values = np.concatenate([measure.value(w @ measure.rows) for w in _weights(len(measure.rows), resamples, seed)])
    return Estimate(measure.total, *_middle(values, level))


def compare(
    first: Measure, second: Measure, *, resamples: int = RESAMPLES, level: float = LEVEL, seed: int = 1
) -> Difference:
    """Two models on the same rows. The interval is the bootstrap's, of the difference on the same draws (Koehn 2004);
    ``p`` is two-sided and by approximate randomisation (Noreen 1989): what if each row's two results were swapped by a
    coin? It is never below 1 / (resamples + 1). Raises ValueError for different numbers of rows.
    """
    if first.rows.shape != second.rows.shape:
        raise ValueError(f"rows {first.rows.shape} and {second.rows.shape} are not of the same questions")
    differences = np.concatenate([
        second.value(w @ second.rows) - first.value(w @ first.rows) for w in _weights(len(first.rows), resamples, seed)
    ])  # fmt: skip
    found = second.total - first.total
    gap, as_large = second.rows - first.rows, 0
    for coins in _coins(len(gap), resamples, seed):
        moved = coins @ gap
        swapped = second.value(second.rows.sum(axis=0) - moved) - first.value(first.rows.sum(axis=0) + moved)
        as_large += int((np.abs(swapped) >= abs(found) - _ROUNDING).sum())
    return Difference(found, *_middle(differences, level), (as_large + 1) / (resamples + 1))


def _middle(values: Numbers, level: float) -> tuple[float, float]:
    """The lowest value with at least ``(1 - level) / 2`` of the draws at or below it, and likewise from above."""
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2], method="inverted_cdf")
    return float(low), float(high)


def _weights(num_rows: int, resamples: int, seed: int) -> Iterator[Numbers]:
    """How often each row is drawn, ``[some, num_rows]``."""
    random = np.random.default_rng(seed)
    for count in _parts(num_rows, resamples):
        yield random.multinomial(num_rows, np.full(num_rows, 1 / num_rows), size=count).astype(np.float64)


def _coins(num_rows: int, resamples: int, seed: int) -> Iterator[Numbers]:
    """0 or 1 for each row, ``[some, num_rows]``."""
    random = np.random.default_rng([seed, 1])
    for count in _parts(num_rows, resamples):
        yield random.integers(0, 2, size=(count, num_rows)).astype(np.float64)


def _parts(num_rows: int, resamples: int) -> Iterator[int]:
    at_once = max(1, _AT_ONCE // num_rows)
    for start in range(0, resamples, at_once):
        yield min(at_once, resamples - start)
