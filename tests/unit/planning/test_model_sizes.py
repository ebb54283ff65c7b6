"""Counts against the real modules, built on the meta device."""

from __future__ import annotations

from typing import Any

import pytest

from distft.config.models import Quantization
from distft.planning.model_sizes import ModelSizes
from distft.planning.size_sources import sizes_from_config
from tests.unit.launch.examples import LLAMA_8B
from tests.unit.planning.small_configs import CASES, NEOX, SMALL


@pytest.mark.parametrize(("config_class", "model_class", "keys"), CASES)
def test_counts_are_the_real_modules(config_class: str, model_class: str, keys: dict[str, Any]) -> None:
    import torch
    import transformers

    config = getattr(transformers, config_class)(**keys)
    config.num_labels = 1
    with torch.device("meta"):
        module = getattr(transformers, model_class).from_config(config)
    real = [parameter.numel() for parameter in module.parameters()]

    sizes = sizes_from_config(config.to_dict())
    if model_class.endswith("SequenceClassification"):
        sizes = sizes.with_head("score")

    assert sizes.total == sum(real)
    assert sizes.largest == max(real)
    for threshold in (100, 5_000, 12_000):
        assert sizes.small(threshold, size=1) == sum(numel for numel in real if numel <= threshold)


@pytest.mark.parametrize(("config_class", "keys"), [("BertConfig", NEOX), ("LlamaConfig", SMALL)])
def test_without_a_head(config_class: str, keys: dict[str, Any]) -> None:
    import torch
    import transformers

    config = getattr(transformers, config_class)(**keys)
    with torch.device("meta"):
        module = transformers.AutoModel.from_config(config)
    sizes = sizes_from_config(config.to_dict()).with_head("none")
    assert sizes.total == sum(parameter.numel() for parameter in module.parameters())
    unread = sum(parameter.numel() for name, parameter in module.named_parameters() if name.startswith("pooler."))
    assert sizes.trained.total == sizes.total - unread
    assert sizes.vocab_head == 0


def test_four_bits_are_two_weights_a_byte_and_their_scales() -> None:
    """Dettmers et al. 2023, section 3: the second quantization takes scales from 0.5 bits a weight to 0.127."""
    sizes = sizes_from_config(LLAMA_8B)
    linear = sum(tensors.total for tensors in sizes.tensors if tensors.linear)
    double, single = (sizes.quantized(Quantization(double=double)) for double in (True, False))
    assert double.total == sizes.total
    assert double.stored(2) == linear // 2 + 2 * (sizes.total - linear)
    assert 8 * double.constants / linear == pytest.approx(0.127, abs=0.001)
    assert 8 * single.constants / linear == pytest.approx(0.5, abs=0.001)
    assert sizes.constants == 0


def test_eight_bits_are_a_byte_a_weight_and_a_float_a_row() -> None:
    sizes = sizes_from_config({"model_type": "llama", **SMALL}).quantized(Quantization(method="int8"))
    rows = sum(one.count * one.shape[0] for one in sizes.tensors if one.linear)
    linear = sum(one.total for one in sizes.tensors if one.linear)
    assert sizes.constants == 4 * rows
    assert sizes.stored(2) == linear + 2 * (sizes.total - linear)
    assert sizes.packed == sizes.total


def test_blocks_add_up() -> None:
    sizes = sizes_from_config({"model_type": "llama", **SMALL, "tie_word_embeddings": False})
    assert sizes.of("embedding") == sizes.of("head") == 320 * 64
    assert sizes.of("norm") == 64
    assert sizes.stored_at_once(2) == 2 * max(sizes.of("layers") // 3, sizes.largest)
    assert sum(sizes.of(block) for block in ("embedding", "layers", "norm", "head")) == sizes.total


def test_scalar_head_takes_the_vocabulary_head_away_but_not_a_tied_embedding() -> None:
    untied = sizes_from_config({"model_type": "llama", **SMALL, "tie_word_embeddings": False})
    tied = sizes_from_config({"model_type": "llama", **SMALL, "tie_word_embeddings": True})
    assert untied.with_head("score").total == tied.with_head("score").total == tied.total + 64


def test_mixtures_compute_with_the_active_experts_only() -> None:
    config = {"model_type": "mixtral", **SMALL, "num_local_experts": 8, "num_experts_per_tok": 2}
    sizes: ModelSizes = sizes_from_config(config)
    assert sizes.intermediate == 2 * 176
