"""No config hides a dropout, and none is lost."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from transformers import Gemma3Config, GPT2Config, PreTrainedConfig, Qwen2Config

from distft.models.dropout import as_written, switch_off


def nested() -> Any:
    """A model with a text part, which is where its attention reads the probability."""
    return Gemma3Config(text_config={"attention_dropout": 0.2}, vision_config={"attention_dropout": 0.3})


def values(config: Any) -> Iterator[float]:
    for name, value in vars(config).items():
        if isinstance(value, PreTrainedConfig):
            yield from values(value)
        elif "drop" in name and isinstance(value, float):
            yield value


@pytest.mark.parametrize("config", [nested(), GPT2Config(attn_pdrop=0.1), Qwen2Config(attention_dropout=0.1)])
def test_off_and_on_again_at_any_depth(config: Any) -> None:
    written = type(config).from_dict(config.to_dict())
    assert max(values(config)) > 0
    switch_off(config)
    assert set(values(config)) == {0.0}
    with as_written(config, written):
        assert list(values(config)) == list(values(written))
    assert set(values(config)) == {0.0}


def test_a_text_model_taken_out_of_a_larger_one_has_its_own() -> None:
    written = nested()
    text = nested().text_config
    switch_off(text)
    with as_written(text, written):
        assert text.attention_dropout == 0.2


def test_settings_that_are_a_plain_dictionary() -> None:
    config = PreTrainedConfig()
    config.attn_config = {"attn_pdrop": 0.1, "heads": 4}
    switch_off(config)
    assert config.attn_config == {"attn_pdrop": 0.0, "heads": 4}
