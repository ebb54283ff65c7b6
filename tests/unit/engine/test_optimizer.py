"""Which weights decay."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, T5Config, T5ForConditionalGeneration
from transformers.trainer_pt_utils import get_parameter_names

from distft.config.models import Model
from distft.config.optimizers.adamw import AdamW
from distft.config.optimizers.sgd import Sgd
from distft.engine.layer_rates import layer_ratios
from distft.engine.optimizer import build_optimizer, set_rate
from tests.unit.models import tiny

ONE_RATE = Model(path="some/model").rate_ratio
# transformers.Trainer.get_decay_parameter_names, 5.19
UNDECAYED = [r"bias", r"layernorm", r"rmsnorm", r"(?:^|\.)norm(?:$|\.)", r"_norm(?:$|\.)"]


@pytest.mark.parametrize("architecture", list(tiny.ARCHITECTURES))
def test_the_groups_are_hugging_faces(tmp_path: Path, architecture: str) -> None:
    module = AutoModelForCausalLM.from_pretrained(tiny.write_model(tmp_path, architecture))
    wanted = set(get_parameter_names(module, [nn.LayerNorm], UNDECAYED))
    built = build_optimizer(module, AdamW(weight_decay=0.1), torch.device("cpu"), ONE_RATE)
    decayed = {id(p) for group in built.param_groups if group["weight_decay"] > 0 for p in group["params"]}
    names = {name for name, parameter in module.named_parameters() if id(parameter) in decayed}
    assert names == wanted & {name for name, _ in module.named_parameters()}
    assert sum(len(group["params"]) for group in built.param_groups) == len(list(module.parameters()))


def test_rates_fall_with_the_depth_of_a_layer(tmp_path: Path) -> None:
    """Two layers: the head (untied) and the norm above them 1, the upper layer 0.5, the lower 0.25, embeddings 0.125;
    times what adapters multiply with. Encoder and decoder each by themselves."""
    module = AutoModelForCausalLM.from_pretrained(tiny.write_model(tmp_path, "llama", tied=False))
    built = build_optimizer(module, AdamW(layer_decay=0.5, learning_rate=0.1), torch.device("cpu"), ONE_RATE)
    set_rate(built, 0.1)
    rates = {id(p): group["lr"] for group in built.param_groups for p in group["params"]}
    found = {name: rates[id(parameter)] for name, parameter in module.named_parameters()}
    wanted = {
        "lm_head": 0.1,
        "model.norm": 0.1,
        "model.layers.1.": 0.05,
        "model.layers.0.": 0.025,
        "model.embed": 0.0125,
    }
    for name, rate in found.items():
        (expected,) = (value for start, value in wanted.items() if name.startswith(start))
        assert rate == pytest.approx(expected), name
    assert {start for start in wanted if any(name.startswith(start) for name in found)} == set(wanted)
    doubled = build_optimizer(module, AdamW(layer_decay=0.5), torch.device("cpu"), lambda name: 2.0 * ("head" in name))
    assert sorted({group["rate_ratio"] for group in doubled.param_groups}) == [0.0, 2.0]
    t5 = T5ForConditionalGeneration(
        T5Config(d_model=8, d_kv=4, d_ff=8, num_layers=1, num_decoder_layers=3, num_heads=2, vocab_size=20)
    )
    ratios = layer_ratios(t5, 0.5)
    assert ratios["encoder.block.0.layer.1.DenseReluDense.wi.weight"] == 0.5
    assert ratios["decoder.block.0.layer.1.EncDecAttention.q.weight"] == 0.125
    assert ratios["shared.weight"] == 0.0625


def test_frozen_weights_are_left_out_and_settings_arrive() -> None:
    module = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    module[0].requires_grad_(requires_grad=False)
    config = AdamW(learning_rate=0.5, betas=(0.8, 0.9), eps=1e-5, weight_decay=0.2)
    built = build_optimizer(module, config, torch.device("cpu"), ONE_RATE)
    assert isinstance(built, torch.optim.AdamW)
    assert [len(group["params"]) for group in built.param_groups] == [1, 1]
    assert [group["lr"] for group in built.param_groups] == [0.5, 0.5]
    set_rate(built, 0.25)
    assert [group["lr"] for group in built.param_groups] == [0.25, 0.25]
    set_rate(built, 0.5)
    first = built.param_groups[0]
    assert (first["lr"], first["betas"], first["eps"], first["weight_decay"]) == (0.5, (0.8, 0.9), 1e-5, 0.2)
    plain = build_optimizer(module, Sgd(), torch.device("cpu"), ONE_RATE)
    assert isinstance(plain, torch.optim.SGD)
