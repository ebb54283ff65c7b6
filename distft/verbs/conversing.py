"""A conversation with one or several models, each with what it said itself."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from distft.common.errors import UserError
from distft.config.training import Rollout
from distft.data.formats import Message, Messages
from distft.data.templates import plain as as_dictionaries
from distft.launch.speakers import Loaded
from distft.rollout.speaker import Question
from distft.verbs.answering import side_by_side, speak

HELP = "/reset begins anew, /undo takes the last turn back, /system TEXT says how to answer, /quit or Ctrl-D ends"


class Conversing:
    """``models`` that are talked to; with ``output``, conversations are added to that file as they end.

    A plain model, which has no turns, is given each line by itself.
    """

    def __init__(
        self, models: Sequence[Loaded], settings: Rollout, seed: int, system: str | None, output: Path | None
    ) -> None:
        self._models, self._seed, self._system, self._output = models, seed, system, output
        self._settings = settings.model_copy(update={"samples_per_prompt": 1})
        self._said: list[Messages] = [()] * len(models)

    def run(self) -> None:
        """Reads lines and answers them until they end. Raises UserError for an output that cannot be written."""
        if sys.stdin.isatty():
            print(HELP, file=sys.stderr)
        while True:
            try:
                line = input("> " if sys.stdin.isatty() else "").strip()
            except EOFError:
                break
            if line == "/quit":
                break
            if line.startswith("/"):
                self._command(line)
            elif line:
                self._turn(line)
        self._keep()

    def _command(self, line: str) -> None:
        name, _, text = line.partition(" ")
        if name == "/reset":
            self._begin_anew()
        elif name == "/undo":
            self._said = [said[:-2] for said in self._said]
        elif name == "/system" and text.strip():
            self._begin_anew()
            self._system = text.strip()
        else:
            print(HELP, file=sys.stderr)

    def _begin_anew(self) -> None:
        self._keep()
        self._said = [()] * len(self._models)

    def _turn(self, line: str) -> None:
        """One question to all models. A turn that cannot be answered, or is stopped by Ctrl-C, has not been."""
        number = len(self._said[0]) // 2
        questions = []
        for model, said in zip(self._models, self._said, strict=True):
            turns = (*said, Message("user", line))
            prompt = model.prompt(line if model.plain else turns, self._system)
            questions.append(Question(prompt, number, f"turn {number + 1}"))
        try:
            answers = self._answers(questions)
        except UserError as error:
            print(f"distft: {error}\n  (/reset begins anew)", file=sys.stderr)
        except KeyboardInterrupt:
            print("\n(stopped; this turn is forgotten)", file=sys.stderr)
        else:
            new = [(Message("user", line), Message("assistant", text)) for text in answers]
            self._said = [(*said, *turn) for said, turn in zip(self._said, new, strict=True)]

    def _answers(self, questions: Sequence[Question]) -> list[str]:
        if len(self._models) == 1:
            return [speak(self._models[0], questions[0], self._settings, self._seed).text]
        answers = [
            next(model.speaker.answers([question], self._settings, self._seed)).text
            for model, question in zip(self._models, questions, strict=True)
        ]
        side_by_side([model.speaker.name for model in self._models], [answers])
        return answers

    def _keep(self) -> None:
        if self._output is None or not self._said[0]:
            return
        start = () if self._system is None else (Message("system", self._system),)
        try:
            with self._output.open("a", encoding="utf-8") as file:
                for model, said in zip(self._models, self._said, strict=True):
                    record = {
                        "messages": as_dictionaries((*start, *said)),
                        "model": model.speaker.name,
                        "seed": self._seed,
                    }
                    file.write(json.dumps(record, ensure_ascii=False) + "\n")
        except OSError as error:
            what = f"the conversation cannot be written: {error.strerror}"
            raise UserError(what, where=str(self._output), hint="name another file") from error
