"""Which prompts of training the policy answers itself."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from distft.common.errors import UserError
from distft.config.data import Data, Source
from distft.data.dataset import load_list
from distft.data.encode import Encoder
from distft.data.formats import CompletionExample, DialogueExample, Message, PromptExample, TextExample
from distft.data.tokenizer_training import train_tokenizer
from distft.workers.own_prompts import own_prompts, require_prompts, require_room


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return Encoder(train_tokenizer(["one two three and four"], 300))


def test_prompts_that_leave_room_for_an_answer(encoder: Encoder) -> None:
    """Their rows' own answers do not matter."""
    rows = [
        CompletionExample("one two three and four " * 9, "1"),
        PromptExample("one"),
        CompletionExample("two", "x" * 99),
    ]
    room = len(encoder.prompt(rows[1])) + 8
    found = own_prompts(rows, encoder, room, 8)
    assert found.dense("group").tolist() == [1, 2]
    assert found.dense("sample").tolist() == found.dense("unit").tolist() == [0, 1]
    assert found.ragged("prompt_ids")[0].tolist() == encoder.prompt(rows[1])
    assert len(own_prompts(rows, encoder, room - 1, 8)) == 0


def test_rows_without_a_prompt_are_passed_over(encoder: Encoder) -> None:
    """Any row of a source may be one: the run goes on with the others, and with none where there are none."""
    nothing = [
        TextExample("one two"),
        CompletionExample("", "two"),
        DialogueExample((Message("assistant", "and"),)),
    ]
    found = own_prompts(
        [nothing[0], PromptExample("one"), *nothing[1:], CompletionExample("two", "three")], encoder, 64, 8
    )
    assert found.dense("group").tolist() == [1, 4]
    assert [ids.tolist() for ids in found.ragged("prompt_ids")] == [
        encoder.prompt(PromptExample("one")), encoder.prompt(PromptExample("two")),
    ]  # fmt: skip
    assert len(own_prompts(nothing, encoder, 64, 8)) == 0


def test_every_source_is_asked_for_prompts_before_a_run(encoder: Encoder, tmp_path: Path) -> None:
    (tmp_path / "asked.jsonl").write_text("\n".join([json.dumps({"prompt": "one", "completion": "two"})] * 3))
    (tmp_path / "text.jsonl").write_text(json.dumps({"text": "and four"}))
    asked, text = (Source(path=str(tmp_path / f"{name}.jsonl")) for name in ("asked", "text"))
    tokenizer = encoder._tokenizer
    require_prompts(load_list([asked, asked], Data(), "distill", tokenizer, name="train"), encoder)
    with pytest.raises(UserError, match=r"text.jsonl:1.*no prompt to answer"):
        require_prompts(load_list([asked, text], Data(), "distill", tokenizer, name="train"), encoder)


def test_where_no_prompt_leaves_room_nothing_starts(encoder: Encoder, tmp_path: Path) -> None:
    rows = [{"prompt": "one two three", "completion": "four"}, {"prompt": "one two", "completion": "three"}]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    train = load_list([Source(path=str(tmp_path / "rows.jsonl"))], Data(), "distill", encoder._tokenizer, name="train")
    shortest = len(encoder.prompt(PromptExample("one two")))
    require_room(train, encoder, shortest + 8, 8)
    with pytest.raises(UserError, match=r"algorithm.on_policy: no prompt .* leaves room.*: 8 tokens of") as no:
        require_room(train, encoder, shortest + 7, 8)
    assert no.value.hint == "rollout.max_new_tokens=7, or a larger data.max_length"
    with pytest.raises(UserError) as no:
        require_room(train, encoder, shortest, 8)
    assert no.value.hint == "a larger data.max_length"
