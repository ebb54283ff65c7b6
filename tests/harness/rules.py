"""Rewards that a rule checks, for the runs of methods without a reward model."""

from __future__ import annotations

from typing import Any


def letters_e(prompts: list[Any], completions: list[str], **_: Any) -> list[float]:
    """A quarter of a point for every ``e``, one point at most."""
    return [min(4, completion.count("e")) / 4 for completion in completions]


def mostly_letters(prompts: list[Any], completions: list[str], **_: Any) -> list[float]:
    """Which share of a completion's characters are letters."""
    return [sum(map(str.isalpha, completion)) / max(1, len(completion)) for completion in completions]


def one_in_four(prompts: list[Any], completions: list[str], **_: Any) -> list[float]:
    """A point for about one completion of four, by its bytes: the answers to many prompts are equal in score."""
    return [float(sum(completion.encode()) % 4 == 0) for completion in completions]
