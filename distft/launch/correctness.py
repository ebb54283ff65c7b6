"""Answers of models held against those of the rows: the text metrics, and which answers count as right."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from distft.common.errors import UserError
from distft.data.formats import prompt_of
from distft.data.templates import plain as as_dictionaries
from distft.data.wanted import ANSWER, wanted_answer
from distft.evaluation.at_k import of_attempts
from distft.evaluation.measures import Measure, mean
from distft.evaluation.text_scores import exact_match, normalized, text_measures
from distft.launch.judged_rows import JudgedRows
from distft.launch.preflight.named_code import check_named_code
from distft.rollout.rewards import last_number, number_in
from distft.workers.reward_functions import asked, reward_function

CORRECT = "correct"
NAMED = ("exact", "number")


@dataclass(frozen=True)
class Criterion:
    """When an answer is right: ``exact`` (equal to the row's, letter case, punctuation and articles aside), ``number``
    (its last number is that of the row's), or the reward function ``module:function`` gives it more than a half."""

    name: str = "exact"

    def __post_init__(self) -> None:
        if self.name not in NAMED and ":" not in self.name:
            hint = f"{', '.join(NAMED)}, or module:function, as a reward function"
            raise UserError("is no way to tell right answers", where=self._where, hint=hint)
        if self.name not in NAMED:  # at once: answers take long, and would be lost
            check_named_code(self.name, self._where)
            reward_function(self.name, self._where)

    @property
    def _where(self) -> str:
        return f"--correct {self.name}"

    def right(
        self, rows: JudgedRows, wanted: Sequence[str], texts: Sequence[str], repeats: int
    ) -> npt.NDArray[np.bool_]:
        """Whether each of ``texts``, ``repeats`` a row, is right. Raises UserError for what a function raises, or a
        wanted answer without a number."""
        if self.name == "exact":
            return np.array([exact_match(text, want) > 0 for text, want in zip(texts, wanted, strict=True)])
        if self.name == "number":
            if any(number_in(want) is None for want in wanted):
                lacking = next(row for row, want in enumerate(wanted) if number_in(want) is None) // repeats
                what = "the row's answer has no number"
                raise UserError(what, where=rows.places[lacking], hint="--correct exact compares texts")
            return np.array(last_number([], list(texts), list(wanted))) > 0
        prompts = [prompt_of(example) for example in rows.examples for _ in range(repeats)]
        content = [one if isinstance(one, str) else as_dictionaries(one) for one in prompts]
        extra = [dict(example.extra) for example in rows.examples for _ in range(repeats)]
        names = {name for one in extra for name in one}
        columns = {name: [one.get(name) for one in extra] for name in names} | {ANSWER: list(wanted)}
        return asked(self.name, reward_function(self.name, self._where), content, list(texts), columns) > 0.5

    def vote(self, text: str) -> Hashable:
        """What an answer has to be like to count as the same."""
        return number_in(text) if self.name == "number" else normalized(text)


def answer_measures(
    rows: JudgedRows, texts: Sequence[str], repeats: int, criterion: Criterion | None
) -> dict[str, Measure]:
    """The text metrics of answers, ``repeats`` a row; of several answers, or with a ``criterion``, which are right.
    Empty where not all rows have an answer."""
    own = [wanted_answer(example) for example in rows.examples]
    if None in own:
        return {}
    wanted = [str(answer) for answer in own for _ in range(repeats)]
    found = {name: one.grouped(repeats) for name, one in text_measures(texts, wanted).items()}
    if repeats == 1 and criterion is None:
        return found
    by = criterion or Criterion()
    right = by.right(rows, wanted, texts, repeats).reshape(-1, repeats)
    if repeats == 1:
        return found | {CORRECT: mean(right[:, 0])}
    votes = [[by.vote(text) for text in texts[start : start + repeats]] for start in range(0, len(texts), repeats)]
    return found | of_attempts(right, votes)
