"""Answers of several models to prompts: as records, or for people to read, side by side."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from distft.config.training import Rollout
from distft.data.formats import Content
from distft.data.templates import plain as as_dictionaries
from distft.launch.speakers import Loaded
from distft.rollout.speaker import Answer, Question


@dataclass(frozen=True)
class Answering:
    """The models, and how they are asked."""

    models: Sequence[Loaded]
    settings: Rollout
    seed: int
    greedy: bool = False
    system: str | None = None

    def records(self, prompts: Iterable[tuple[Any, str]]) -> Iterator[dict[str, Any]]:
        """A dictionary for each answer: prompt by prompt, model by model, sample by sample."""
        numbered, samples = enumerate(prompts), self.settings.samples_per_prompt
        at_once = max(1, self.settings.max_batch_per_rank // samples)
        while chunk := list(islice(numbered, at_once)):
            by_model = [self._answers(model, chunk) for model in self.models]
            for place, (number, _) in enumerate(chunk):
                for model, answered in zip(self.models, by_model, strict=True):
                    for sample, (question, answer) in enumerate(answered[place * samples : (place + 1) * samples]):
                        yield self._record(model, number, sample, question, answer)

    def show(self, prompts: Iterable[tuple[Any, str]], *, alone: bool) -> None:
        """Prints prompts and answers, an only model's as it speaks. ``alone``: one prompt, whose answer is all."""
        console = Console(highlight=False, soft_wrap=True)
        bare = alone and len(self.models) == 1 and self.settings.samples_per_prompt == 1
        for number, prompt in enumerate(prompts):
            if not bare:
                console.print(Text(f"> {_said(prompt[0])}", style="bold"))
            if len(self.models) > 1:
                answered = [self._answers(model, [(number, prompt)]) for model in self.models]
                columns = [[answer.text for _, answer in found] for found in answered]
                side_by_side([model.speaker.name for model in self.models], list(zip(*columns, strict=True)))
            else:
                for question in self._questions(self.models[0], number, prompt):
                    speak(self.models[0], question, self.settings, self.seed, greedy=self.greedy)
            if not bare:
                print(flush=True)

    def _answers(self, model: Loaded, numbered: Sequence[tuple[int, tuple[Any, str]]]) -> list[tuple[Question, Answer]]:
        questions = [one for number, prompt in numbered for one in self._questions(model, number, prompt)]
        found = model.speaker.answers(questions, self.settings, self.seed, greedy=self.greedy)
        return list(zip(questions, found, strict=True))

    def _questions(self, model: Loaded, number: int, prompt: tuple[Any, str]) -> list[Question]:
        content, where = prompt
        samples = self.settings.samples_per_prompt
        given = model.prompt(content, self.system)
        return [Question(given, number * samples + sample, where) for sample in range(samples)]

    def _record(self, model: Loaded, number: int, sample: int, question: Question, answer: Answer) -> dict[str, Any]:
        given = question.prompt
        return {
            "model": model.speaker.name,
            "number": number,
            "sample": sample,
            "where": question.where,
            "prompt": given if isinstance(given, str) else as_dictionaries(given),
            "completion": answer.text,
            "num_tokens": len(answer.ids),
            "ended": answer.ended,
            "logprob": round(answer.logprob, 6),
            "seed": self.seed,
        }


def speak(model: Loaded, question: Question, settings: Rollout, seed: int, *, greedy: bool = False) -> Answer:
    """Prints one answer as it comes, and returns it."""

    def write(piece: str) -> None:
        sys.stdout.write(showable(piece))
        sys.stdout.flush()

    answer = model.speaker.streamed(question, settings, seed, write, greedy=greedy)
    write("\n" if answer.ended else " [...]\n" if sys.stdout.isatty() else "\n")
    return answer


def side_by_side(names: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Prints a column for each model, a row for each sample; one below the other where nobody looks."""
    if not sys.stdout.isatty():
        for row in rows:
            for name, text in zip(names, row, strict=True):
                print(f"{name}: {showable(text)}", flush=True)
        return
    table = Table(show_lines=len(rows) > 1, expand=True)
    for name in names:
        table.add_column(Text(name), overflow="fold", ratio=1)
    for row in rows:
        table.add_row(*(Text(showable(text)) for text in row))
    Console(highlight=False).print(table)


def showable(text: str) -> str:
    """A text without what a terminal would obey: a model may write any control character."""
    return "".join(one if one.isprintable() or one in "\n\t" else "\N{REPLACEMENT CHARACTER}" for one in text)


def _said(content: Content) -> str:
    """A prompt for people: what was said last."""
    return content if isinstance(content, str) else content[-1].content
