"""How many answers to the questions of the embedded data are good ones."""

from __future__ import annotations

from collections.abc import Sequence

from distft.data.builtin import BETTER_MARKS, marks


def better_share(questions: Sequence[str], answers: Sequence[str]) -> float:
    """The share of answers with BETTER_MARKS or more."""
    assert answers, "no answers to judge"
    better = [marks(question, answer) >= BETTER_MARKS for question, answer in zip(questions, answers, strict=True)]
    return sum(better) / len(better)
