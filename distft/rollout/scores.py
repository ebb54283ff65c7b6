"""What counts as scores, whoever gives them."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Sequence
from numbers import Real
from typing import Any

import numpy as np

from distft.common.errors import UserError

_LARGEST = float(np.finfo(np.float32).max)  # rewards are float32: what is larger would be infinite there


def finite_scores(answers: Sequence[Any], count: int, *, where: str, hint: str) -> list[float]:
    """The answers as scores, one for each of ``count`` completions. ``where``: who gave them; ``hint``: what is asked.

    Raises UserError for another number of them, and for one that is no number or not finite as float32.
    """
    if len(answers) != count:
        raise UserError(f"answered {len(answers)} scores for {count} completions", where=where, hint=hint)
    for index, answer in enumerate(answers):
        if not is_score(answer):
            what = f"answered {reprlib.repr(answer)} for completion {index}"
            if _LARGEST < _size(answer) < math.inf:
                what += ", which float32 cannot hold"
            raise UserError(what, where=where, hint=hint)
    return [float(answer) for answer in answers]


def plain_number(answer: Any) -> Any:
    """A scalar of numpy or torch as Python's; anything else as it is."""
    try:
        return answer.item()
    except Exception:  # no scalar: whatever its item raises, that of an array of several numbers too
        return answer


def is_score(answer: Any) -> bool:
    """Whether it is a number that is finite as float32."""
    return bool(_size(answer) <= _LARGEST)  # NaN is not


def _size(answer: Any) -> Any:
    return abs(answer) if isinstance(answer, Real) else math.nan
