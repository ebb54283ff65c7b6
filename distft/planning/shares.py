"""In which ways GPUs may be shared out among device sets: what ``ranks: auto`` has to choose from."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from itertools import product
from math import gcd

# How many times the smallest share another set may get.
RATIOS = (1, 2, 4, 8)


@cache
def shares(sets: int, free: int, per_node: int, *, fewer: bool = True) -> tuple[tuple[int, ...], ...]:
    """Ranks for each of ``sets`` device sets, the plainest first: even shares of all, the first ones doubled if left.

    A set has whole nodes, or a power of two of GPUs within one; a single one has all. Then all ``RATIOS``, and with
    ``fewer`` those of a half, a quarter, ... of the GPUs too: among many ranks the start of every collective may
    cost more than the rank brings. Nothing where there are fewer GPUs than sets.
    """
    found: dict[tuple[int, ...], None] = {}
    for total in _totals(free, sets, per_node, fewer=fewer):
        for ratios in _ratios(sets):
            if ranks := _divided(ratios, total, per_node):
                found[ranks] = None
    return tuple(found)


def _totals(free: int, least: int, per_node: int, *, fewer: bool) -> Iterator[int]:
    """All GPUs, a half of them, ...; within one node always, where a rank alone saves the buffers of collectives."""
    total = free
    while total >= least:
        if fewer or total == free or free <= per_node:
            yield total
        half = total // 2
        total = half if half < per_node else half // per_node * per_node


@cache
def _ratios(sets: int) -> tuple[tuple[int, ...], ...]:
    every = product(RATIOS, repeat=sets)
    return tuple(sorted((ratios for ratios in every if gcd(*ratios) == 1), key=lambda ratios: (sum(ratios), ratios)))


def _divided(ratios: tuple[int, ...], total: int, per_node: int) -> tuple[int, ...]:
    """``total`` in these ratios, rounded down; of even shares the first are doubled while GPUs are left."""
    if len(ratios) == 1:
        return (total if total <= per_node else total // per_node * per_node,)
    unit = sum(ratios)
    ranks = [_rounded(total * ratio // unit, per_node) for ratio in ratios]
    if not all(ranks):
        return ()
    if unit == len(ratios):
        for number, own in enumerate(ranks):
            if sum(ranks) + own <= total:
                ranks[number] *= 2
    return tuple(ranks)


def _rounded(ranks: int, per_node: int) -> int:
    """Whole nodes, or a power of two."""
    if ranks >= per_node:
        return ranks // per_node * per_node
    return 1 << (ranks.bit_length() - 1) if ranks else 0
