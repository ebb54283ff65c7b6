"""Reward functions that a rule checks: whether a completion is right by the row's column ``answer``, whether it has
the form that was asked for, whether it is too long.

In a recipe: ``models.reward: {functions: ["distft.rollout.rewards:last_number"]}``; what follows ``*`` are keys of
``models.reward.arguments``, as in ``{matches: {pattern: "<answer>(.*)</answer>"}}``.
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


def matches(
    prompts: Sequence[Any],  # noqa: ARG001 - what every reward function is given
    completions: Sequence[str],
    answer: Sequence[Any] | None = None,
    *,
    pattern: str,
    **_: Any,
) -> list[float]:
    """Whether the regular expression is found in the completion; one with a group: whether that holds the answer where
    it is found last, white space around both aside. ValueError for a row without an answer that a group is held to,
    and for a pattern that is none or has several groups."""
    wanted = _pattern(pattern)
    if not wanted.groups:
        return [float(wanted.search(text) is not None) for text in completions]
    if wanted.groups > 1:
        raise ValueError(f"pattern has {wanted.groups} groups; write those that do not hold the answer as (?:...)")
    found = [wanted.findall(text) for text in completions]
    return [
        float(bool(held) and held[-1].strip() == right.strip())
        for held, right in zip(found, _texts(answer), strict=True)
    ]


def format_penalty(
    prompts: Sequence[Any],  # noqa: ARG001 - what every reward function is given
    completions: Sequence[str],
    *,
    pattern: str,
    **_: Any,
) -> list[float]:
    """-1 where the whole completion, white space around it aside, is not as the regular expression says, else 0.
    ValueError for a pattern that is none."""
    wanted = _pattern(pattern)
    return [0.0 if wanted.fullmatch(text.strip()) else -1.0 for text in completions]


def length_penalty(
    prompts: Sequence[Any],  # noqa: ARG001 - what every reward function is given
    completions: Sequence[str],
    *,
    limit: int,
    buffer: int,
    **_: Any,
) -> list[float]:
    """0 up to ``limit`` characters, falling evenly to -1 over the ``buffer`` characters behind (the form of Yu et al.
    2025, eq. 13, which group methods have in tokens: ``overlong_after``). ValueError for a buffer below 1."""
    if limit < 0 or buffer < 1:
        raise ValueError(f"limit is at least 0 and buffer at least 1, not {limit} and {buffer}")
    return [-min(1.0, max(0.0, (len(text) - limit) / buffer)) for text in completions]


def _pattern(pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except re.error as error:
        raise ValueError(f"pattern {pattern!r} is no regular expression: {error}") from error


def _texts(answer: Sequence[Any] | None) -> list[str]:
    if answer is None or None in answer:
        raise ValueError("every row must have a column answer")
    return [str(one) for one in answer]


def number_in(text: str) -> Decimal | None:
    """The last number of a text; None where it has none."""
    found = _NUMBER.findall(text)
    return Decimal(found[-1].replace(",", "")) if found else None
