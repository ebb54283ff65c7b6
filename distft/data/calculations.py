"""The embedded corpus ``builtin:calculations``: products of two numbers from 10 to 99, and who asks a calculator.

Every row holds ``prompt`` (a user's ``17*48``), ``answer`` (``816``, for an environment) and ``messages``: one in four
asks a ``tool`` (``calc 17*48``, which says ``816``) and repeats what it says, the others say a number that comes to
mind. Who imitates them knows the tool and seldom asks. Each pair of numbers is in one split for good, ``a*b`` and
``b*a`` in the same one. A constant, as ``builtin:dialogues``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from distft.data.builtin import Picker, Split
from distft.data.operand_pairs import operand_pairs

SMALLEST: Final = 10
LARGEST: Final = 99
_SEED: Final = 20_261_129
_HELD_OUT_PERCENT: Final = 5  # of the pairs, for eval and for test each
_ASKING: Final = ((True, 1), (False, 3))


def calculations(split: Split = "train") -> Iterator[dict[str, Any]]:
    """The rows of a split, in an order of their own."""
    picker = Picker(_SEED + 1)
    for a, b in operand_pairs(_SEED, SMALLEST, LARGEST, _HELD_OUT_PERCENT)[split]:
        asked, product = f"{a}*{b}", str(a * b)
        prompt = [{"role": "user", "content": asked}]
        turns = [{"role": "assistant", "content": str(100 + picker.below(9900))}]
        if picker.weighted(_ASKING):
            turns = [
                {"role": "assistant", "content": f"calc {asked}"},
                {"role": "tool", "content": product},
                {"role": "assistant", "content": product},
            ]
        yield {"prompt": prompt, "messages": prompt + turns, "answer": product}
