"""How far people who judge the same things agree: Kendall's tau of two orders, Krippendorff's alpha of many judgements.
Pure; numpy only."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import combinations

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.float64]


def kendall_tau(first: Sequence[float], second: Sequence[float]) -> float | None:
    """tau-b of two lists of ranks of the same things (Kendall 1945, Biometrika 33): concordant pairs less discordant
    ones, over the geometric mean of the pairs that the first and the second tell apart. 1: the same order, -1: the
    reverse, ties in one of them count half. None where one of them tells nothing apart. Raises ValueError for lists of
    different lengths.
    """
    if len(first) != len(second):
        raise ValueError(f"{len(first)} ranks and {len(second)} are not of the same things")
    signs = np.array([np.sign((first[i] - first[j], second[i] - second[j])) for i, j in _pairs(len(first))])
    apart = np.abs(signs).sum(axis=0) if len(signs) else np.zeros(2)
    if not apart.all():
        return None
    return float(signs.prod(axis=1).sum() / np.sqrt(apart.prod()))


def krippendorff_alpha(units: Iterable[Sequence[float]]) -> float | None:
    """Alpha of ordinal judgements: 1 less observed over expected disagreement (Krippendorff 2011, "Computing
    Krippendorff's alpha-reliability", section D with the ordinal difference). 1: all agree, 0: as chance would.

    ``units``: of each thing judged the values that it was given, by however many; what one alone judged does not count.
    None where nothing was judged by two, or all values are the same: then there is nothing to agree about.
    """
    judged = [np.asarray(values, dtype=np.float64) for values in units if len(values) > 1]
    if not judged:
        return None
    scale, places = np.unique(np.concatenate(judged), return_inverse=True)
    coincidences, start = np.zeros((len(scale), len(scale))), 0
    for values in judged:
        counts = np.bincount(places[start : start + len(values)], minlength=len(scale)).astype(np.float64)
        coincidences += (np.outer(counts, counts) - np.diag(counts)) / (len(values) - 1)
        start += len(values)
    totals = coincidences.sum(axis=1)
    apart = _ordinal_differences(totals)
    expected = totals @ apart @ totals
    if expected == 0:
        return None
    return float(1 - (totals.sum() - 1) * (coincidences * apart).sum() / expected)


def mid_ranks(ranks: Sequence[float]) -> list[float]:
    """Ranks in which what is tied shares the mean of the places that it takes: 1, 1, 2 is 1.5, 1.5, 3."""
    values = np.asarray(ranks, dtype=np.float64)
    below = (values[None, :] < values[:, None]).sum(axis=1)
    equal = (values[None, :] == values[:, None]).sum(axis=1)
    return [float(rank) for rank in below + (equal + 1) / 2]


def _ordinal_differences(totals: Numbers) -> Numbers:
    """Squared: how many values lie between two, each end counted half."""
    middles = np.cumsum(totals) - totals / 2
    squared: Numbers = (middles[:, None] - middles[None, :]) ** 2
    return squared


def _pairs(count: int) -> Iterable[tuple[int, int]]:
    return combinations(range(count), 2)
