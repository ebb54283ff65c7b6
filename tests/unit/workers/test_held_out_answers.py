"""Which rows a policy is asked, and what its answers have of the rows' own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from distft.batches import Batch, Ragged
from distft.common.errors import UserError
from distft.config.load import load_recipe
from distft.data.encode import Encoder
from distft.data.formats import (
    CompletionExample,
    DialogueExample,
    Example,
    Message,
    PreferenceExample,
    PromptExample,
    TextExample,
)
from distft.data.tokenizer_training import train_tokenizer
from distft.workers.held_out_answers import answer_metrics, questions, require_answers

TURNS = (Message("user", "How are you?"), Message("assistant", "Well."))
EXAMPLES: list[Example] = [
    CompletionExample("one two", " three"),
    TextExample("no prompt"),
    PreferenceExample("who", "me", "you"),
    CompletionExample("bad", "worse", label=False),
    PromptExample("2 + 2 =", extra={"answer": 4}),
    PromptExample("nobody knows"),
    DialogueExample(TURNS),
    CompletionExample("a very long prompt " * 20, "yes"),
]


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return Encoder(train_tokenizer(["one two three who me you How are you? Well."], 300))


def recipe(*keys: str) -> Any:
    return load_recipe("sft-tiny", ["rollout.max_new_tokens=8", *keys])


def test_the_rows_that_are_asked(encoder: Encoder) -> None:
    wanted = questions(EXAMPLES, encoder, 64, recipe("evaluation.metrics=[f1]"))
    assert wanted.dense("group").tolist() == [0, 2, 4, 6]
    assert wanted.dense("sample").tolist() == [0, 1, 2, 3]
    assert wanted.ragged("prompt_ids")[1].tolist() == encoder.prompt(PromptExample("who"))
    # To be read only, a row needs no answer; without a limit it may be as long as it likes.
    assert questions(EXAMPLES, encoder, 64, recipe()).dense("group").tolist() == [0, 2, 3, 4, 5, 6]
    assert questions(EXAMPLES, encoder, None, recipe()).dense("group").tolist() == [0, 2, 3, 4, 5, 6, 7]


def test_where_no_answer_has_room_the_length_that_has_is_said(encoder: Encoder) -> None:
    prompt = len(encoder.prompt(PromptExample("one two")))
    with pytest.raises(UserError, match="beyond the model's") as caught:
        questions(EXAMPLES[:1], encoder, prompt + 7, recipe("evaluation.metrics=[f1]"))
    assert (caught.value.where, caught.value.hint) == ("rollout.max_new_tokens", "at most 7")
    assert len(questions(EXAMPLES[:1], encoder, prompt + 7, recipe())) == 0


def test_answers_are_held_against_the_rows_own() -> None:
    batch = Batch({
        "response_ids": Ragged.of([[1, 2], [3], [4, 5, 6]], np.int32), "ended": np.array([1, 0, 1], np.uint8),
        "sample": np.arange(3),
    })  # fmt: skip
    asked = [EXAMPLES[0], EXAMPLES[5], EXAMPLES[4]]
    found = answer_metrics(["exact_match", "f1"], asked, [" Three!", "nothing", "it is 4"], batch)
    # "it is 4" against "4": one word of three and of one in common, 2 * 1 / 4; the row without an answer is left out.
    assert found == {
        "val/exact_match": 0.5, "val/f1": 0.75, "objective/length": 2.0, "objective/ended": pytest.approx(2 / 3),
    }  # fmt: skip


class Rows:
    def __init__(self, rows: Sequence[Example]) -> None:
        self._rows, self.num_units = rows, len(rows)

    def rows(self, units: Sequence[int]) -> list[Example]:
        return [self._rows[unit] for unit in units]


@pytest.mark.parametrize(("row", "told"), [(EXAMPLES[1], "no prompt"), (EXAMPLES[5], "a column `answer`")])
def test_rows_that_give_no_answer_are_refused_before_anything_is_trained(row: Example, told: str) -> None:
    lists: Any = {"train": Rows([row]), "eval": Rows([row])}
    require_answers(recipe(), lists)
    with pytest.raises(UserError, match=told):
        require_answers(recipe("evaluation.metrics=[f1]"), lists)
    require_answers(recipe("evaluation.metrics=[f1]"), {"train": lists["train"]})
