"""What an example asks and answers, as numbers to be compared: whoever judges must not have been trained on it.

A row of train leaks where one of its questions, all that was said before an answer, is a judged row's question; and
where its dialogue holds a judged row's question and answer anywhere, turn for turn. A plain prompt is what a user says;
letter case, white space and system turns do not count.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from distft.data.formats import (
    AnchoredExample,
    CompletionExample,
    Content,
    DialogueExample,
    Example,
    PreferenceExample,
    RankingExample,
    StepwiseExample,
    last_assistant,
    prompt_of,
    texts_of,
)

Turn: TypeAlias = tuple[str, str]
Numbers: TypeAlias = npt.NDArray[np.uint64]


@dataclass(frozen=True)
class Traces:
    """Of one example. ``asked``: its questions, its own last; ``answered``: (turn, answer) pairs, the ``num_own``
    that answer its own question last."""

    asked: tuple[int, ...]
    answered: tuple[int, ...]
    num_own: int


def traces(example: Example) -> Traces:
    """What an example asks and answers."""
    question = turns(prompt_of(example))
    if not question:
        return Traces((_number(["text", *map(_plain, texts_of(example))]),), (), 0)
    asked: list[int] = []
    answered: list[int] = []
    own: list[int] = []
    for conversation in conversations(example):
        for place in range(1, len(conversation)):
            if conversation[place][0] != "assistant":
                continue
            pair = _number(conversation[place - 1 : place + 1])
            if place == len(question):
                own.append(pair)
            else:
                asked.append(_number(conversation[:place]))
                answered.append(pair)
    return Traces((*dict.fromkeys(asked), _number(question)), (*dict.fromkeys(answered), *own), len(own))


def conversations(example: Example) -> list[list[Turn]]:
    """An example as turns, once for each of its answers; the prompt alone where it has none."""
    if isinstance(example, DialogueExample):
        return [turns(example.messages[: last_assistant(example.messages) + 1])]
    answers: tuple[Content, ...] = ()
    if isinstance(example, CompletionExample):
        answers = (example.completion,)
    elif isinstance(example, AnchoredExample):
        answers = (example.positive,)
    elif isinstance(example, PreferenceExample):
        answers = (example.chosen, example.rejected)
    elif isinstance(example, RankingExample):
        answers = example.completions
    elif isinstance(example, StepwiseExample):
        answers = ("\n".join(example.steps),)
    question = turns(prompt_of(example))
    return [question + turns(answer, "assistant") for answer in answers] or [question]


def turns(content: Content, speaker: str = "user") -> list[Turn]:
    """Who says what, system turns left out; a plain text is said by ``speaker``."""
    if isinstance(content, str):
        return [(speaker, _plain(content))] if content.strip() else []
    return [(message.role, _plain(message.content)) for message in content if message.role != "system"]


class Judged:
    """Judged rows' questions with their answers, to be found as turns that stand together in other examples."""

    def __init__(self) -> None:
        self._turns: dict[int, set[tuple[Turn, ...]]] = defaultdict(set)  # by their number

    def add(self, example: Example) -> None:
        """One more judged row."""
        length = len(turns(prompt_of(example))) + 1
        for conversation in conversations(example):
            self._turns[length].add(tuple(conversation[:length]))

    def held_in(self, example: Example) -> bool:
        """Whether an example holds one of them."""
        return any(
            tuple(conversation[start : start + length]) in known
            for conversation in conversations(example)
            for length, known in self._turns.items()
            for start in range(len(conversation) - length + 1)
        )


@dataclass(frozen=True)
class Traced:
    """The traces of many rows: row i has ``asked[asked_from[i]:asked_from[i+1]]``, and ``answered`` likewise."""

    asked: Numbers
    asked_from: npt.NDArray[np.int64]
    answered: Numbers
    answered_from: npt.NDArray[np.int64]
    num_own: npt.NDArray[np.uint8]

    @classmethod
    def of(cls, rows: Iterable[Traces]) -> Traced:
        """The rows one after the other."""
        found = list(rows)
        return cls(
            *_flat([row.asked for row in found]),
            *_flat([row.answered for row in found]),
            np.array([row.num_own for row in found], np.uint8),
        )

    def questions(self, rows: npt.NDArray[np.int64]) -> Numbers:
        """The own question of each of the rows, all of which have one."""
        return self.asked[self.asked_from[rows + 1] - 1]

    def own_answers(self, rows: npt.NDArray[np.int64]) -> tuple[Numbers, npt.NDArray[np.int64]]:
        """The pairs that answer the rows' own questions, and the row of each."""
        counts = self.num_own[rows].astype(np.int64)
        last = self.answered_from[rows + 1]
        places = [np.arange(end - count, end) for end, count in zip(last.tolist(), counts.tolist(), strict=True)]
        flat = np.concatenate(places) if places else np.zeros(0, np.int64)
        return self.answered[flat], np.repeat(rows, counts)

    def asks_any(self, questions: Numbers) -> npt.NDArray[np.bool_]:
        """For each row, whether it asks one of the questions."""
        return _any_of(np.isin(self.asked, questions), self.asked_from)

    def answers_any(self, pairs: Numbers) -> npt.NDArray[np.bool_]:
        """For each row, whether it has one of the pairs."""
        return _any_of(np.isin(self.answered, pairs), self.answered_from)

    def answered_by(self, row: int) -> Numbers:
        """All pairs of a row."""
        return self.answered[self.answered_from[row] : self.answered_from[row + 1]]


def _flat(rows: Sequence[Sequence[int]]) -> tuple[Numbers, npt.NDArray[np.int64]]:
    lengths = np.array([0, *map(len, rows)], np.int64)
    return np.array([number for row in rows for number in row], np.uint64), np.cumsum(lengths)


def _any_of(hits: npt.NDArray[np.bool_], offsets: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    before = np.concatenate([np.zeros(1, np.int64), np.cumsum(hits)])
    found: npt.NDArray[np.bool_] = before[offsets[1:]] > before[offsets[:-1]]
    return found


def _number(said: Sequence[object]) -> int:
    digest = blake2b(json.dumps(said, ensure_ascii=True).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())
