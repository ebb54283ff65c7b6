"""The embedded corpus ``builtin:sums``: additions of two small numbers, each pair of numbers in one split for good.

Every row holds ``prompt`` (``17 + 8 =``), ``completion`` (`` 25``) and ``answer`` (``25``, for a reward that a rule
checks). Training rows come in an order of their own, eval and test rows once each. ``a + b`` and ``b + a`` lie in the
same split, so that no held-out sum has been seen the other way round. A constant, as ``builtin:dialogues``.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any, Final

from distft.data.builtin import Picker, Split

LARGEST: Final = 19  # of an operand
_SEED = 20_261_127
_HELD_OUT_PERCENT = 10  # of the pairs, for eval and for test each


def sums(split: Split = "train") -> Iterator[dict[str, Any]]:
    """The rows of a split."""
    for a, b in _pairs()[split]:
        yield {"prompt": f"{a} + {b} =", "completion": f" {a + b}", "answer": str(a + b)}


@cache
def _pairs() -> dict[Split, list[tuple[int, int]]]:
    """Ordered pairs of each split, shuffled."""
    picker = Picker(_SEED)
    shares: tuple[tuple[Split, int], ...] = (
        ("train", 100 - 2 * _HELD_OUT_PERCENT),
        ("eval", _HELD_OUT_PERCENT),
        ("test", _HELD_OUT_PERCENT),
    )
    found: dict[Split, list[tuple[int, int]]] = {split: [] for split, _ in shares}
    for a in range(LARGEST + 1):
        for b in range(a, LARGEST + 1):
            found[picker.weighted(shares)] += sorted({(a, b), (b, a)})
    for pairs in found.values():
        for last in range(len(pairs) - 1, 0, -1):
            other = picker.below(last + 1)
            pairs[last], pairs[other] = pairs[other], pairs[last]
    return found
