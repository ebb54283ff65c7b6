"""A judge in a labeller's place: what it says of the collected answers, as a labelling page saves it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from distft.common.errors import UserError
from distft.common.files import JsonlWriter
from distft.data.labelling import Labels, collection_name, label_line
from distft.evaluation.judge import pairwise, ratings
from distft.evaluation.verdicts import ranks_of
from distft.launch.judges import JudgeNamed, open_judge, require_judge
from distft.verbs.collecting import Collection


@dataclass(frozen=True)
class JudgeLabels:
    """``num_by_order``: ties of two answers in which only their order spoke; ``num_unread``: comparisons and ratings
    that cannot be read, whose prompts are not ``labels``."""

    labels: list[Labels]
    num_by_order: int
    num_unread: int


def require_judging(named: JudgeNamed, tasks: Sequence[str]) -> None:
    """That judge can be asked that. Raises UserError, EnvironmentFallsShort."""
    if "correct" in tasks:
        raise UserError("a judge ranks and rates, and corrects nothing", where="--ask", hint="--ask rank,rate")
    require_judge(named)


def judged(named: JudgeNamed, found: Collection, *, trust_remote_code: bool = False) -> JudgeLabels:
    """The judge's labels of each item whose every verdict can be read. Raises UserError where there is no such item,
    and as ``open_judge``."""
    judge = open_judge(named, trust_remote_code=trust_remote_code)
    labels: list[Labels] = []
    by_order = unread = 0
    for number, item in enumerate(found.items):
        ranks: tuple[int, ...] | None = None
        rated: tuple[int, ...] | None = None
        whole = True
        if "rank" in found.tasks:
            said = pairwise(judge, found.criterion, item.prompt, item.completions)
            ranks = ranks_of(said, len(item.completions))
            whole = ranks is not None
            by_order += sum(one.by_order for one in said)
            unread += sum(one.second is None for one in said)
        if "rate" in found.tasks:
            numbers = ratings(judge, found.criterion, [item.prompt] * len(item.completions), item.completions)
            rated = tuple(one for one in numbers if one is not None)
            whole = whole and len(rated) == len(numbers)
            unread += len(numbers) - len(rated)
        if whole:
            labels.append(Labels(judge.name, number, item, ranks, rated, None, ""))
    if not labels:
        what = f"none of its answers on {len(found.items)} prompts can be read whole"
        hint = (
            "a judge must follow instructions: it is asked to end with a verdict such as [[A]], or a rating like [[3]]"
        )
        raise UserError(what, where=judge.name, hint=hint)
    return JudgeLabels(labels, by_order, unread)


def write_labels(made: JudgeLabels, found: Collection, path: Path) -> None:
    """As a person's file."""
    collection = collection_name(found.items, found.criterion, found.tasks)
    with JsonlWriter(path) as file:
        file.append(*(label_line(one, collection, found.criterion) for one in made.labels))
