"""A judge, and what is asked of it: preferences of two answers, and ratings of one."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Protocol

from distft.config.recipe import Recipe
from distft.data.formats import Content
from distft.evaluation.verdicts import (
    CRITERION,
    SAME,
    Preference,
    comparison,
    preference,
    rating_of,
    rating_question,
)


def criterion_of(said: str | None, recipe: Recipe | None) -> str:
    """By what answers are to be judged: what was said, else the recipe's, else help without harm."""
    return said or (None if recipe is None else recipe.evaluation.criterion) or CRITERION


class Judge(Protocol):
    """Whoever reads a question and answers in words."""

    @property
    def name(self) -> str:
        """How it is called in messages."""
        ...

    def answers(self, questions: Sequence[str]) -> list[str | None]:
        """What it says to each; None where nothing came."""
        ...


def preferences(
    judge: Judge, criterion: str, prompts: Sequence[Content], firsts: Sequence[str], seconds: Sequence[str]
) -> list[Preference]:
    """How the answers to each prompt compare, each two shown in both orders."""
    rows = list(zip(prompts, firsts, seconds, strict=True))
    apart = [number for number, (_, first, second) in enumerate(rows) if first.strip() != second.strip()]
    said = judge.answers([
        comparison(criterion, prompt, *shown)
        for prompt, first, second in (rows[number] for number in apart)
        for shown in ((first, second), (second, first))
    ])  # fmt: skip
    found = dict(zip(apart, map(preference, said[0::2], said[1::2]), strict=True))
    return [found.get(number, SAME) for number in range(len(rows))]


def pairwise(judge: Judge, criterion: str, prompt: Content, answers: Sequence[str]) -> list[Preference]:
    """Of all pairs of the answers to one prompt, in the order of ``combinations``."""
    pairs = list(combinations(answers, 2))
    return preferences(judge, criterion, [prompt] * len(pairs), *([pair[side] for pair in pairs] for side in (0, 1)))


def ratings(judge: Judge, criterion: str, prompts: Sequence[Content], answers: Sequence[str]) -> list[int | None]:
    """The rating of each answer to its prompt by itself; None where none can be read. The same one is asked about
    once."""
    asked = [rating_question(criterion, prompt, answer) for prompt, answer in zip(prompts, answers, strict=True)]
    apart = list(dict.fromkeys(asked))
    said = dict(zip(apart, judge.answers(apart), strict=True))
    return [None if (text := said[question]) is None else rating_of(text) for question in asked]
