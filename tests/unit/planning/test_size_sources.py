"""Sizes by config.json, by a recipe's init and by the headers of weights."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from distft.common.errors import UserError
from distft.config.models import Init
from distft.planning.size_sources import sizes_from_config, sizes_from_folder, sizes_from_init
from tests.unit.launch.examples import LLAMA_8B, LLAMA_70B, config_folder, write_safetensors
from tests.unit.planning.small_configs import FLAN_T5_BASE, GPT2, OPT, SMALL


def test_what_is_saved_by_transformers_is_enough(tmp_path: Path) -> None:
    """config.json leaves defaults out: the ones that counts depend on must be known here."""
    import transformers

    for config in (transformers.LlamaConfig(**SMALL), transformers.GPT2Config(**GPT2), transformers.OPTConfig(**OPT)):
        folder = tmp_path / config.model_type
        config.save_pretrained(folder)
        assert sizes_from_folder(folder) == sizes_from_config(config.to_dict())


@pytest.mark.parametrize(("tied", "millions"), [(True, 222.9), (False, 247.6)])
def test_flan_t5_base_as_in_the_textbook(tied: bool, millions: float) -> None:
    sizes = sizes_from_config({**FLAN_T5_BASE, "tie_word_embeddings": tied})
    assert sizes.total / 1e6 == pytest.approx(millions, abs=0.05)
    assert sizes.tied is tied
    assert sizes.encoder_decoder
    assert sizes.layers == 24


def test_well_known_llamas_have_their_known_sizes() -> None:
    assert sizes_from_config(LLAMA_8B).total == 8_030_261_248
    assert sizes_from_config(LLAMA_70B).total == 70_553_706_496


def test_init_is_the_llama_that_it_describes() -> None:
    init = Init(hidden_size=64, num_layers=3, num_heads=4, num_kv_heads=2, vocab_size=320, intermediate_size=176)
    assert (
        sizes_from_init(init).total
        == sizes_from_config({"model_type": "llama", **SMALL, "tie_word_embeddings": True}).total
    )
    wide = sizes_from_init(Init(hidden_size=64, num_layers=1, num_heads=4, vocab_size=320))
    assert wide.intermediate == 256
    assert wide.kv_heads == 4


def test_unknown_architecture_is_counted_from_the_headers(tmp_path: Path) -> None:
    folder = config_folder(tmp_path / "m", {"model_type": "newfangled", "hidden_size": 8, "vocab_size": 10})
    shapes = {"model.embed_tokens.weight": (10, 8), "model.layers.0.w": (8, 8), "model.layers.1.w": (8, 8),
              "norm.weight": (8,), "lm_head.weight": (10, 8)}  # fmt: skip
    write_safetensors(folder / "model.safetensors", shapes)
    sizes = sizes_from_folder(folder)
    assert sizes.total == 80 + 64 + 64 + 8 + 80
    assert (sizes.of("embedding"), sizes.of("layers"), sizes.of("head")) == (80, 128, 80)


def test_unknown_architecture_without_weights_is_an_error_that_names_the_nearest(tmp_path: Path) -> None:
    folder = config_folder(tmp_path / "m", {"model_type": "lama", "hidden_size": 8})
    with pytest.raises(UserError, match="lama") as caught:
        sizes_from_folder(folder)
    assert "llama" in caught.value.hint


def test_missing_key_is_named() -> None:
    with pytest.raises(UserError, match="num_hidden_layers"):
        sizes_from_config({"model_type": "llama", "hidden_size": 8})


def test_torn_config_is_an_error_with_its_path(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": ')
    with pytest.raises(UserError, match="config.json"):
        sizes_from_folder(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps([1]))
    with pytest.raises(UserError, match="not a JSON object"):
        sizes_from_folder(tmp_path)
