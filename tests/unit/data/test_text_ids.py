"""The quick way to ids is the tokenizer's own."""

from __future__ import annotations

from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from distft.data.text_ids import text_ids

TEXTS = ["a", " The capital of France\n\n\n", "<|end|>Paris<|user|>", "é\ud7ff 🙂", "<s> a </s>", "a" * 3000]


@pytest.mark.parametrize("name", ["tokenizer", "merging", "with_bos"])
def test_ids_are_those_of_a_call(name: str, request: pytest.FixtureRequest) -> None:
    tokenizer: PreTrainedTokenizerFast = request.getfixturevalue(name)
    ids = text_ids(tokenizer)
    assert [ids(text) for text in TEXTS] == [tokenizer(text, add_special_tokens=False)["input_ids"] for text in TEXTS]
    tokenizer(
        ["a", "b c"], truncation=True, max_length=2, padding=tokenizer.pad_token is not None
    )  # another's call leaves the backend cutting
    assert ids(TEXTS[1]) == tokenizer(TEXTS[1], add_special_tokens=False)["input_ids"]


def test_special_tokens_that_a_tokenizer_splits_stay_split(with_bos: PreTrainedTokenizerFast) -> None:
    with_bos.split_special_tokens = True
    assert text_ids(with_bos)("<s> a") == with_bos("<s> a", add_special_tokens=False)["input_ids"]
    assert 0 not in text_ids(with_bos)("<s> a")


def test_a_class_with_ways_of_its_own_is_called(tokenizer: PreTrainedTokenizerFast) -> None:
    class Own(PreTrainedTokenizerFast):
        def __call__(self, *_: Any, **__: Any) -> Any:
            return {"input_ids": [7]}

    assert text_ids(Own(tokenizer_object=tokenizer.backend_tokenizer))("a") == [7]
