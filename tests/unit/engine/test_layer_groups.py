"""Which group of layers a weight is of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

from distft.config.adapters.lora import Lora
from distft.engine.layer_groups import MOST_GROUPS, layer_groups
from distft.models.adapters.adapt import add_adapters
from tests.unit.models import tiny
from tests.unit.models.encoder_decoders import write_encoder_decoder


def test_embeddings_blocks_and_head_in_the_order_of_the_data(tmp_path: Path) -> None:
    module = AutoModelForCausalLM.from_pretrained(tiny.write_model(tmp_path, "llama", tied=False))
    groups = layer_groups(module)
    assert set(groups) == {name for name, _ in module.named_parameters()}
    assert list(dict.fromkeys(groups.values())) == ["embedding", "block 0", "block 1", "head"]
    assert groups["model.embed_tokens.weight"] == "embedding"
    assert groups["model.layers.1.mlp.up_proj.weight"] == "block 1"
    assert groups["lm_head.weight"] == groups["model.norm.weight"] == "head"


def test_encoder_and_decoder_are_told_apart(tmp_path: Path) -> None:
    module = AutoModelForSeq2SeqLM.from_pretrained(write_encoder_decoder(tmp_path, "t5"))
    found = set(layer_groups(module).values())
    assert {"encoder 0", "decoder 0", "embedding", "head"} <= found


def test_of_adapters_only_what_is_trained(tmp_path: Path) -> None:
    module: Any = AutoModelForCausalLM.from_pretrained(tiny.write_model(tmp_path, "llama"))
    add_adapters(module, Lora(), dropout=False, seed=1)
    groups = layer_groups(module)
    assert set(groups.values()) == {"block 0", "block 1"}
    assert all("lora" in name for name in groups)


@pytest.mark.parametrize(("depth", "first", "last"), [(32, "block 0", "block 31"), (80, "block 0-2", "block 78-79")])
def test_neighbours_of_a_deep_stack_are_together(depth: int, first: str, last: str) -> None:
    with torch.device("meta"):
        module = nn.ModuleDict({"layers": nn.ModuleList(nn.Linear(1, 1) for _ in range(depth))})
    labels = list(dict.fromkeys(layer_groups(module).values()))
    assert (labels[0], labels[-1]) == (first, last)
    assert len(labels) <= MOST_GROUPS
