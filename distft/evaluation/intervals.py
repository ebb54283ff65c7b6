"""How sure the change of a metric is where no values of single rows were kept. Pure.

Both intervals, at ``LEVEL``, take the two sides as if they were of other rows each. On the same rows they are too wide
rather than too narrow, as long as rows that did well before tend to do well after.
"""

from __future__ import annotations

from math import sqrt
from statistics import NormalDist
from typing import Final

from distft.evaluation.bootstrap import LEVEL

FEWEST: Final = 5  # rows, below which nothing is said
Z: Final = NormalDist().inv_cdf((1 + LEVEL) / 2)  # standard errors to each side of a normal distribution


def change_of_means(change: float, deviations: tuple[float, float], rows: int) -> tuple[float, float] | None:
    """The interval of Student's t around a change of means over ``rows`` rows each, from their standard deviations
    (those that divide by the number of rows); its degrees of freedom are ``rows - 1``, the fewest that Welch (1947)
    gives. None where there are fewer than ``FEWEST`` rows or no deviation on either side.
    """
    if rows < FEWEST or not max(deviations) > 0:
        return None
    error = sqrt(sum(one**2 for one in deviations) / (rows - 1))
    return change - _t(rows - 1) * error, change + _t(rows - 1) * error


def change_of_shares(before: float, after: float, rows: int) -> tuple[float, float] | None:
    """The interval of ``after - before``, shares of ``rows`` rows each, by Newcombe (1998), method 10: Wilson's
    intervals of the two, put together. None where there are fewer than ``FEWEST`` rows.
    """
    if rows < FEWEST:
        return None
    (low_before, high_before), (low_after, high_after) = _wilson(before, rows), _wilson(after, rows)
    change = after - before
    down = sqrt((after - low_after) ** 2 + (high_before - before) ** 2)
    up = sqrt((high_after - after) ** 2 + (before - low_before) ** 2)
    return change - down, change + up


def _wilson(share: float, rows: int) -> tuple[float, float]:
    """Wilson (1927)."""
    centre = share + Z**2 / (2 * rows)
    half = Z * sqrt(share * (1 - share) / rows + Z**2 / (4 * rows**2))
    return (centre - half) / (1 + Z**2 / rows), (centre + half) / (1 + Z**2 / rows)


def _t(freedom: int) -> float:
    """The quantile of Student's t that ``Z`` is of the normal distribution: Abramowitz and Stegun 26.7.5, within 0.2 %
    from four degrees of freedom on."""
    z = Z
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + sum(term / float(freedom) ** power for power, term in enumerate(terms, 1))
