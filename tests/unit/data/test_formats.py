from __future__ import annotations

from typing import Any

import pytest

from distft.common.errors import UserError
from distft.data.formats import (
    CompletionExample,
    DialogueExample,
    Message,
    PreferenceExample,
    PromptExample,
    Row,
    TextExample,
    check_format,
    detect_format,
    prompt_key,
    prompt_of,
    require_columns,
    texts_of,
)

ASK, TELL = Message("user", "Ask"), Message("assistant", "Tell")
HH = "\n\nHuman: a\n\nAssistant: b"


def _row(**values: Any) -> Row:
    return Row(values, "rows.jsonl:1")


@pytest.mark.parametrize(
    ("values", "kind", "expected"),
    [
        ({"text": "a"}, "sft", "text"),
        ({"messages": []}, "sft", "messages"),
        ({"prompt": "a", "completion": "b"}, "sft", "prompt_completion"),
        ({"prompt": "a", "completion": "b"}, "ppo", "prompt"),
        ({"prompt": "a", "completion": "b", "label": False}, "sft", "prompt_completion"),
        ({"prompt": "a", "completion": "b", "label": False}, "kto", "unpaired"),
        ({"question": "a", "answer": "b", "label": False}, "kto", "unpaired"),
        ({"prompt": "a", "chosen": "b", "rejected": "c"}, "kto", "preference"),
        ({"prompt": "a", "chosen": "b", "rejected": "c"}, "dpo", "preference"),
        ({"prompt": "a", "chosen": "b", "rejected": "c", "messages": []}, "sft", "messages"),
        ({"prompt": "a", "chosen": "b", "rejected": "c", "messages": []}, "reward", "preference"),
        ({"chosen": HH, "rejected": HH}, "dpo", "hh_rlhf"),
        ({"chosen": HH, "rejected": HH}, "ppo", "hh_rlhf"),
        ({"chosen": HH, "rejected": HH}, "sft", "hh_rlhf"),
        ({"chosen": "plain", "rejected": HH}, "dpo", "preference"),
        ({"prompt": "a", "completion": "b", "corrected": "c"}, "sft", "corrections"),
        ({"question": "a", "answer": "b", "corrected": "c"}, "dpo", "corrections"),
        ({"prompt": "a", "completion": "b", "corrected": "c"}, "kto", "corrections"),
        ({"prompt": "a", "completion": "b", "corrected": None}, "sft", "prompt_completion"),
        ({"prompt": "a", "completions": ["b", "c"], "ranks": [1, 2]}, "reward", "rankings"),
        ({"question": "a", "completions": ["b", "c"], "ranks": [1, 2]}, "dpo", "rankings"),
        ({"dialogue": "a", "summary": "b"}, "sft", "dialogsum"),
        ({"text": "a", "messages": None}, "sft", "text"),
    ],
)
def test_formats_are_told_by_columns_and_kind(values: dict[str, Any], kind: str, expected: str) -> None:
    assert detect_format(_row(**values), kind) == expected


def test_columns_that_nothing_fits_are_named_with_a_rename() -> None:
    with pytest.raises(UserError) as caught:
        detect_format(_row(prompt="a", chosn="b", rejected="c"), "dpo")
    assert caught.value.where == "rows.jsonl:1"
    assert "has the columns `chosn`, `prompt`, `rejected`" in caught.value.what
    assert "did you mean `columns: {chosn: chosen}` on the source?" in caught.value.hint
    with pytest.raises(UserError, match="(?s)`question`.*`columns: {name in the file: name of the format}`"):
        detect_format(_row(question="a"), "sft")
    with pytest.raises(UserError, match="`text` null"):
        detect_format(_row(text=None), "sft")


def test_a_later_row_without_a_column_is_named() -> None:
    with pytest.raises(UserError, match=r"needs a column `chosen`; the row has `Chosen`, `rejected`"):
        require_columns(_row(Chosen="a", rejected="b"), "preference")
    with pytest.raises(UserError, match="column `chosen` is null"):
        require_columns(_row(chosen=None, rejected="b"), "preference")


def test_each_kind_refuses_what_it_cannot_use() -> None:
    check_format("preference", "dpo", "x")
    with pytest.raises(UserError, match="reward takes: preference, hh_rlhf, corrections"):
        check_format("messages", "reward", "x")
    with pytest.raises(UserError, match="ppo cannot be trained on rows of format text"):
        check_format("text", "ppo", "x")


def test_prompt_of_every_kind_of_example() -> None:
    assert prompt_of(TextExample("a")) == ""
    assert prompt_of(DialogueExample((ASK, TELL, ASK, TELL, ASK))) == (ASK, TELL, ASK)
    assert prompt_of(CompletionExample("a", "b")) == "a"
    assert prompt_of(PreferenceExample((ASK,), (TELL,), (TELL,))) == (ASK,)
    assert prompt_of(PromptExample("a")) == "a"


def test_texts_of_every_kind_of_example() -> None:
    assert texts_of(TextExample("a")) == ["a"]
    assert texts_of(DialogueExample((ASK, TELL))) == ["Ask", "Tell"]
    assert texts_of(CompletionExample("a", "b")) == ["a", "b"]
    assert texts_of(PreferenceExample((ASK,), (TELL,), (TELL,))) == ["Ask", "Tell", "Tell"]
    assert texts_of(PromptExample("a")) == ["a"]


def test_the_prompt_key_is_what_is_asked() -> None:
    same = [
        CompletionExample("What  is\nthis?", "a", where="x"),
        CompletionExample("what is this?", "b", extra={"c": 1}),
        PreferenceExample("WHAT IS THIS? ", "a", "b"),
    ]
    assert len({prompt_key(example) for example in same}) == 1
    others = [
        PromptExample("what is that?"),
        PromptExample((Message("user", "what is this?"),)),
        PromptExample((Message("system", "what is this?"),)),
        TextExample("what is this?"),
        TextExample("something else"),
    ]
    assert len({prompt_key(example) for example in [*same, *others]}) == 6
