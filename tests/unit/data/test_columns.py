from __future__ import annotations

from typing import Any

import pytest

from distft.data.columns import column_notes, under_our_names
from distft.data.formats import Message, Row, detect_format
from distft.data.readers import example_of

SIDES: dict[str, Any] = {"chosen": " yes", "rejected": " no"}
TURNS = {name: [{"role": "assistant", "content": text}] for name, text in SIDES.items()}


def _row(**values: Any) -> Row:
    return Row(values, "rows.jsonl:1")


@pytest.mark.parametrize(
    ("values", "prompt"),
    [
        ({"question": "Hi?", **SIDES}, "Hi?"),
        ({"system": "Be brief.", "question": "Hi?", **SIDES}, "Be brief.\n\nHi?"),
        ({"system": "", "question": "Hi?", **SIDES}, "Hi?"),
        ({"instruction": "Add.", "input": "1 and 2", **SIDES}, "Add.\n\n1 and 2"),
        ({"system": "Be brief.", "prompt": "Hi?", "question": "No", **SIDES}, "Be brief.\n\nHi?"),
        ({"system": "Be brief.", "question": "Hi?", **TURNS}, (Message("system", "Be brief."), Message("user", "Hi?"))),
        ({"system": "S", "prompt": [{"role": "user", "content": "Hi?"}], **TURNS},
         (Message("system", "S"), Message("user", "Hi?"))),
    ],
)  # fmt: skip
def test_pairs_without_a_column_called_prompt(values: dict[str, Any], prompt: Any) -> None:
    assert detect_format(_row(**values), "dpo") == "preference"
    assert example_of(_row(**values), "preference").prompt == prompt  # type: ignore[union-attr]


def test_whole_conversations_have_their_prompt_already() -> None:
    sides = {name: [{"role": "user", "content": "Hi?"}, *turns] for name, turns in TURNS.items()}
    example = example_of(_row(question="another one", **sides), "preference")
    assert example.prompt == (Message("user", "Hi?"),)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("values", "kind", "expected"),
    [
        ({"question": "a", "answer": "b"}, "sft", "prompt_completion"),
        ({"question": "a", "answer": "b"}, "ppo", "prompt"),
        ({"question": "a"}, "ppo", "prompt"),
        ({"instruction": "a", "input": "", "output": "b"}, "sft", "alpaca"),
        ({"instruction": "a", "context": "c", "response": "b"}, "sft", "prompt_completion"),
        ({"conversations": []}, "sft", "sharegpt"),
        ({"definition": "a", "inputs": "b", "targets": "c"}, "sft", "natural_instructions"),
    ],
)
def test_formats_by_other_names(values: dict[str, Any], kind: str, expected: str) -> None:
    assert detect_format(_row(**values), kind) == expected


def test_what_is_read_as_what_and_what_is_not_is_said() -> None:
    row = _row(system="Be brief.", question="Hi?", source="web", score=3, **SIDES)
    assert column_notes(row, "preference") == (
        "`question` is read as `prompt`, `system` comes before the prompt",
        "not read: `source` (`columns: {source: NAME}` on the source reads it as NAME)",
    )
    assert column_notes(_row(instruction="a", input="b", **SIDES), "preference") == (
        "`instruction` is read as `prompt`, `input` follows it",
    )
    assert column_notes(_row(prompt="Hi?", **SIDES), "preference") == ()
    judged = _row(prompt="Hi?", completion="No", label=False)
    assert column_notes(judged, "prompt_completion") == ("answers whose `label` is false are left out",)
    assert column_notes(judged, "unpaired") == ()
    (kept,) = column_notes(_row(prompt="Hi?", completion="No", label="funny"), "prompt_completion")
    assert kept.startswith("not read: `label`")


def test_a_row_with_our_names_is_left_as_it_is() -> None:
    row = _row(prompt="Hi?", question="a", **SIDES)
    assert under_our_names(row, "preference") is row
    assert under_our_names(row, "hh_rlhf") is row
