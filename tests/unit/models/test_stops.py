"""Which tokens end a response."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from transformers import GenerationConfig, LlamaConfig

from distft.common.errors import UserError
from distft.models.stops import stop_tokens
from tests.harness.chat_templates import family_tokenizer


def names(
    template: str, generation: GenerationConfig, named: tuple[str, ...] | None = None, rows: int = 0
) -> list[str]:
    tokenizer = family_tokenizer(template, ["Which word? Word."] * 9)
    model = SimpleNamespace(generation_config=generation, config=LlamaConfig(vocab_size=rows or len(tokenizer)))
    found = stop_tokens(tokenizer, SimpleNamespace(model=model), named)
    return list(tokenizer.convert_ids_to_tokens(list(found)))


def test_the_templates_end_of_a_turn_is_one_besides_those_of_the_settings() -> None:
    assert sorted(names("qwen", GenerationConfig())) == ["<|endoftext|>", "<|im_end|>"]
    assert sorted(names("qwen", GenerationConfig(eos_token_id=[0]))) == ["<|endoftext|>", "<|im_end|>", "<|pad|>"]
    assert names("mistral", GenerationConfig()) == ["</s>"]


def test_the_recipes_are_the_only_ones() -> None:
    assert names("qwen", GenerationConfig(eos_token_id=[0]), ("<|im_end|>",)) == ["<|im_end|>"]


def test_a_name_that_is_no_token_is_the_users() -> None:
    with pytest.raises(UserError, match="no token of the policy's tokenizer") as caught:
        names("qwen", GenerationConfig(), ("<|im_ende|>",))
    assert "did you mean <|im_end|>?" in caught.value.hint


def test_what_the_model_cannot_say_ends_nothing() -> None:
    assert names("qwen", GenerationConfig(eos_token_id=[0, 9999]), rows=1) == ["<|pad|>"]
