"""Reward functions that a rule checks, for rows with a column ``answer``: 1 for the right one, else 0.

In a recipe: ``models.reward: {functions: ["distft.rollout.rewards:last_number"]}``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

_NUMBER = re.compile(r"(?:(?<!\d)-)?\d+(?:,\d{3})*(?:\.\d+)?")


def exact_match(
    prompts: Sequence[Any],  # noqa: ARG001 - what every reward function is given
    completions: Sequence[str],
    answer: Sequence[Any] | None = None,
    **_: Any,
) -> list[float]:
    """Whether the completion is the answer, white space around both aside. ValueError for a row without an answer."""
    return [float(text.strip() == right.strip()) for text, right in zip(completions, _texts(answer), strict=True)]


def last_number(
    prompts: Sequence[Any],  # noqa: ARG001 - what every reward function is given
    completions: Sequence[str],
    answer: Sequence[Any] | None = None,
    **_: Any,
) -> list[float]:
    """Whether the last number of the completion is that of the answer: ``so 1,250.0 it is`` is right where the answer
    is ``1250``. ValueError for a row without an answer, or an answer without a number."""
    rights = [number_in(text) for text in _texts(answer)]
    if None in rights:
        raise ValueError(f"the answer {_texts(answer)[rights.index(None)]!r} has no number")
    return [float(number_in(text) == right) for text, right in zip(completions, rights, strict=True)]


def _texts(answer: Sequence[Any] | None) -> list[str]:
    if answer is None or None in answer:
        raise ValueError("every row must have a column answer")
    return [str(one) for one in answer]


def number_in(text: str) -> Decimal | None:
    """The last number of a text; None where it has none."""
    found = _NUMBER.findall(text)
    return Decimal(found[-1].replace(",", "")) if found else None
