"""Answers of several models, judged against the first's on the same rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from distft.common.errors import UserError
from distft.data.formats import prompt_of
from distft.evaluation.judge import criterion_of, preferences
from distft.evaluation.verdicts import wins
from distft.launch.judges import open_judge
from distft.launch.judging import Judged, Judging


def with_wins(judged: Sequence[Judged], judging: Judging) -> list[Judged]:
    """The same, each but the first with how often its answers win against the first's, where both read the same rows.

    Raises UserError where no answer of the judge has a verdict."""
    first, named = judged[0], judging.judge
    others = [one for one in judged[1:] if _comparable(first, one)]
    if named is None or not others:
        return list(judged)
    judge = open_judge(named, trust_remote_code=judging.reading.trust_remote_code)
    criterion = criterion_of(named.criterion, judging.wanted.recipe)
    prompts = [prompt_of(example) for example in first.rows.examples for _ in range(first.repeats)]
    found = list(judged)
    for one in others:
        assert first.answers is not None
        assert one.answers is not None
        result = wins(preferences(judge, criterion, prompts, first.answers, one.answers), first.repeats)
        if not result.num_judged:
            what = f"none of its answers to {result.num_unread} comparisons has a verdict that can be read"
            hint = "a judge must follow instructions: it is asked to end with [[A]], [[B]] or [[tie]]"
            raise UserError(what, where=judge.name, hint=hint)
        found[found.index(one)] = replace(one, wins=result)
    return found


def _comparable(first: Judged, other: Judged) -> bool:
    both = first.answers is not None and other.answers is not None
    return both and first.rows.places == other.rows.places and first.repeats == other.repeats
