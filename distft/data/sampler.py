"""The order in which units are visited: pure, resumable from one integer, the same on any number of ranks.

A position counts the units visited since the beginning of training. Epoch ``e`` visits every unit
once, in an order that depends on (seed, e) alone, so position -> (epoch, unit) needs no other state.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache, partial

import numpy as np
import numpy.typing as npt


def order(num_units: int, seed: int, epoch: int, shuffle: bool) -> npt.NDArray[np.int64]:
    """The units of one epoch in the order they are visited, int64 [num_units].

    The permutation sorts raw words of the counter-based generator Philox keyed by (seed, epoch): numpy
    keeps that stream fixed over versions, which it does not promise of ``Generator.permutation``.
    """
    if not shuffle:
        return np.arange(num_units, dtype=np.int64)
    return _orders(num_units, seed)(epoch)


@lru_cache(maxsize=16)
def _orders(num_units: int, seed: int) -> Callable[[int], npt.NDArray[np.int64]]:
    """The orders of a source, by epoch. Its last two are kept, for batches that straddle them: of millions of units one
    takes a good part of a second to make, and eight bytes a unit to keep."""
    return lru_cache(maxsize=2)(partial(_shuffled, num_units, seed))


def _shuffled(num_units: int, seed: int, epoch: int) -> npt.NDArray[np.int64]:
    key = np.array([seed % 2**64, epoch], dtype=np.uint64)
    words = np.random.Philox(key=key).random_raw(num_units)
    found = np.argsort(words, kind="stable").astype(np.int64)
    found.setflags(write=False)
    return found


def take(num_units: int, start: int, count: int, seed: int, shuffle: bool) -> list[tuple[int, int]]:
    """``count`` consecutive (epoch, unit) from position ``start``, crossing the borders of epochs.

    ``take(n, 0, a + b, ...) == take(n, 0, a, ...) + take(n, a, b, ...)`` for all a and b: a batch that
    straddles an epoch is filled from the next one, and nothing is dropped at an epoch's end.
    """
    if num_units < 1:
        raise ValueError("there are no units to take from")
    if start < 0 or count < 0:
        raise ValueError(f"start and count must not be negative: {start}, {count}")
    taken: list[tuple[int, int]] = []
    while len(taken) < count:
        epoch, offset = divmod(start + len(taken), num_units)
        units = order(num_units, seed, epoch, shuffle)[offset : offset + count - len(taken)]
        taken.extend((epoch, int(unit)) for unit in units)
    return taken


def proportional_sample(source_sizes: Sequence[int], count: int, seed: int) -> list[int]:
    """``count`` of the units of an epoch, ascending, of each source (units lie source after source) its share: drawn
    from (seed, source) alone, so that every evaluation of a run judges the same units. All, where there are no more.

    Shares are rounded by largest remainder: a source has within one unit of ``count * size / total``.
    """
    sizes = np.asarray(source_sizes, np.int64)
    total = int(sizes.sum())
    if count >= total:
        return list(range(total))
    shares, remainders = np.divmod(sizes * count, total)
    shares[np.argsort(-remainders, kind="stable")[: count - int(shares.sum())]] += 1
    starts = np.cumsum([0, *sizes[:-1]])
    drawn = [
        start + np.sort(order(int(size), seed, source, shuffle=True)[:share])
        for source, (start, size, share) in enumerate(zip(starts, sizes, shares, strict=True))
    ]
    return [int(unit) for unit in np.concatenate(drawn)]
