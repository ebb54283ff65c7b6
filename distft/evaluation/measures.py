"""Metrics as sums over rows: what resampling needs. Pure; numpy only.

A metric of a set of rows is a function of the sums of a few numbers that each row has: a mean of (value, 1), a loss per
token of (sum of its NLL, tokens), BLEU of counted n-grams. Any weighting of the rows then gives a value without looking
at a text again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Measure:
    """``rows [num_rows, k]``, and ``value``: sums ``[m, k]`` to values ``[m]``."""

    rows: Numbers
    value: Callable[[Numbers], Numbers]

    @property
    def total(self) -> float:
        """The metric of all rows."""
        return float(self.value(self.rows.sum(axis=0, keepdims=True))[0])

    def of(self, chosen: Sequence[int] | npt.NDArray[np.int64]) -> Measure:
        """The same metric of these rows."""
        return Measure(self.rows[np.asarray(chosen, np.int64)], self.value)

    def grouped(self, size: int) -> Measure:
        """Every ``size`` rows as one: several answers to a prompt, which are not drawn apart from each other."""
        return Measure(self.rows.reshape(-1, size, self.rows.shape[1]).sum(axis=1), self.value)


def mean(values: Sequence[float] | npt.NDArray[np.generic]) -> Measure:
    """The mean of one value a row."""
    column = np.asarray(values, np.float64)
    return Measure(np.stack([column, np.ones_like(column)], axis=1), _ratio)


def per(values: npt.NDArray[np.generic], counts: npt.NDArray[np.generic]) -> Measure:
    """The sum of the values by the sum of the counts: a loss per token. NaN where nothing is counted."""
    return Measure(np.stack([np.asarray(values, np.float64), np.asarray(counts, np.float64)], axis=1), _ratio)


def perplexity(nlls: npt.NDArray[np.generic], num_tokens: npt.NDArray[np.generic]) -> Measure:
    """exp(sum of NLL / tokens), of all rows together."""
    loss = per(nlls, num_tokens)
    return Measure(loss.rows, lambda sums: np.exp(_ratio(sums)))


def _ratio(sums: Numbers) -> Numbers:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(sums[:, 0] / sums[:, 1], np.float64)
