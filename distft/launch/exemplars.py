"""Few-shot prompts: answered rows of training put before a held-out prompt, to see what prompting alone would give.

An exemplar asks nothing that a judged row asks, and holds no judged row with its answer.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from distft.common.errors import UserError
from distft.config.data import Source
from distft.data.bad_rows import BadRow, Unusable
from distft.data.formats import Content, Example, Message, Messages, prompt_of
from distft.data.leaks import Judged, traces
from distft.data.readers import example_for
from distft.data.sources import format_of, read_rows
from distft.data.wanted import wanted_answer

BETWEEN = "\n\n"  # plain exemplars end with it, and what is behind it in an answer begins a next one
_KIND = "sft"
_READ = 2000  # rows that exemplars are drawn from


@dataclass(frozen=True)
class Exemplar:
    """A question and its answer."""

    prompt: Content
    answer: str
    where: str


def draw_exemplars(sources: Sequence[Source], judged: Sequence[Example], count: int, seed: int) -> list[Exemplar]:
    """``count`` rows of training lists, by the seed; fewer are the first of more.

    Raises UserError where the rows have too few with a prompt and an answer that no judged row has.
    """
    asked = {traces(example).asked[-1] for example in judged}
    held = Judged()
    for example in judged:
        if prompt_of(example):
            held.add(example)
    free = [
        exemplar
        for example, exemplar in _answered(sources)
        if not asked.intersection(traces(example).asked) and not held.held_in(example)
    ]
    if len(free) < count:
        raise _too_few(len(free), " that no judged row has", count)
    random.Random(seed).shuffle(free)
    return free[:count]


def require_exemplars(sources: Sequence[Source], count: int) -> None:
    """Without the judged rows: there are ``count`` rows with a prompt and an answer. Raises UserError."""
    found = sum(1 for _ in islice(_answered(sources), count))
    if found < count:
        raise _too_few(found, "", count)


def with_exemplars(prompt: Content, exemplars: Sequence[Exemplar]) -> Content:
    """The prompt behind the exemplars: turns behind a system turn, of plain text one after the other. Raises UserError
    where one is a conversation and the other plain."""
    if not exemplars:
        return prompt
    if isinstance(prompt, str):
        return BETWEEN.join([*(_plain(one) for one in exemplars), prompt])
    start = 1 if prompt[0].role == "system" else 0
    turns: list[Message] = []
    for one in exemplars:
        turns += [*_turns(one), Message("assistant", one.answer)]
    return (*prompt[:start], *turns, *prompt[start:])


def first_answer(text: str) -> str:
    """What a model answers before it goes on with a next exemplar of its own."""
    return text.partition(BETWEEN)[0] if not text.startswith(BETWEEN) else first_answer(text.removeprefix(BETWEEN))


def _answered(sources: Sequence[Source]) -> Iterator[tuple[Example, Exemplar]]:
    for example in _examples(sources):
        if prompt_of(example) and (answer := wanted_answer(example)):
            yield example, Exemplar(prompt_of(example), answer, example.where)


def _too_few(found: int, apart: str, count: int) -> UserError:
    what = f"{found} rows of training have a prompt and an answer{apart}"
    return UserError(what, where=f"--shots {count}", hint=f"--shots {found}, or --shots-from PATH")


def _examples(sources: Sequence[Source]) -> Iterator[Example]:
    for source in sources:
        format_name = ""
        for row in islice(read_rows(source, "train"), _READ):
            format_name = format_name or format_of(source, row, _KIND)
            try:
                yield example_for(row, format_name, _KIND)
            except (BadRow, Unusable):
                continue


def _plain(exemplar: Exemplar) -> str:
    if not isinstance(exemplar.prompt, str):
        raise _another_sort(exemplar, "a conversation, the judged rows are plain text")
    space = "" if exemplar.answer[:1].isspace() or exemplar.prompt[-1:].isspace() else " "
    return f"{exemplar.prompt}{space}{exemplar.answer}"


def _turns(exemplar: Exemplar) -> Messages:
    if isinstance(exemplar.prompt, str):
        raise _another_sort(exemplar, "plain text, the judged rows are conversations")
    return tuple(turn for turn in exemplar.prompt if turn.role != "system")


def _another_sort(exemplar: Exemplar, what: str) -> UserError:
    return UserError(f"an exemplar is {what}", where=exemplar.where, hint="--shots-from PATH with rows of that sort")
