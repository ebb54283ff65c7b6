"""Pairs of numbers for corpora of sums and products, each in one split for good."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

from distft.data.builtin import Picker, Split


@cache
def operand_pairs(
    seed: int, smallest: int, largest: int, held_out_percent: int
) -> Mapping[Split, list[tuple[int, int]]]:
    """Ordered pairs of numbers from ``smallest`` to ``largest`` in each split, shuffled; ``(a, b)`` and ``(b, a)`` are
    in the same one, so that nothing held out has been seen the other way round. ``held_out_percent``: of the pairs, for
    eval and for test each."""
    picker = Picker(seed)
    shares: tuple[tuple[Split, int], ...] = (
        ("train", 100 - 2 * held_out_percent), ("eval", held_out_percent), ("test", held_out_percent)
    )  # fmt: skip
    found: dict[Split, list[tuple[int, int]]] = {split: [] for split, _ in shares}
    for a in range(smallest, largest + 1):
        for b in range(a, largest + 1):
            found[picker.weighted(shares)] += sorted({(a, b), (b, a)})
    return {split: picker.shuffled(pairs) for split, pairs in found.items()}
