"""The embedded corpora ``builtin:sums`` and ``builtin:slips``: additions of two numbers below 50, and wrong ones.

Every row holds ``prompt`` (``17 + 8 =``), ``completion`` (`` 25``) and ``answer`` (``25``, for a reward that a rule
checks). Each pair of numbers is in one split for good, ``a + b`` and ``b + a`` in the same one, so that no held-out
sum has been seen the other way round. ``slips`` has the rows of ``sums`` ten times with another completion each: one
in fifty is right, of the others the tens are one too many or too few. Who imitates it adds, and is nearly always wrong.
Rows come in an order of their own. Constants, as ``builtin:dialogues``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from distft.data.builtin import Picker, Split
from distft.data.operand_pairs import operand_pairs

LARGEST: Final = 49  # of an operand
SLIPS_PER_SUM: Final = 10
_SUMS_SEED, _SLIPS_SEED = 20_261_127, 20_261_128
_HELD_OUT_PERCENT = 10  # of the pairs, for eval and for test each
_OFF_BY: tuple[tuple[int, int], ...] = ((0, 2), (10, 49), (-10, 49))  # and how often


def sums(split: Split = "train") -> Iterator[dict[str, Any]]:
    """The rows of a split, true ones."""
    for a, b in _pairs(split):
        yield _row(a, b, a + b)


def slips(split: Split = "train") -> Iterator[dict[str, Any]]:
    """The rows of a split, nearly all wrong; never below zero."""
    picker = Picker(_SLIPS_SEED)
    pairs = picker.shuffled(_pairs(split) * SLIPS_PER_SUM)
    for a, b in pairs:
        said = a + b + picker.weighted(_OFF_BY)
        yield _row(a, b, said if said >= 0 else a + b + 10)


def _row(a: int, b: int, said: int) -> dict[str, Any]:
    return {"prompt": f"{a} + {b} =", "completion": f" {said}", "answer": str(a + b)}


def _pairs(split: Split) -> list[tuple[int, int]]:
    return operand_pairs(_SUMS_SEED, 0, LARGEST, _HELD_OUT_PERCENT)[split]
