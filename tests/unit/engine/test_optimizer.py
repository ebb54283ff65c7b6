"""Which weights decay."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    OPTConfig,
    T5Config,
    T5ForConditionalGeneration,
)
from transformers.trainer_pt_utils import get_parameter_names

from distft.config.adapters.p_tuning import PTuning
from distft.config.adapters.prefix import PrefixTuning
from distft.config.adapters.virtual_tokens import VirtualTokens
from distft.config.models import Model
from distft.config.optimizers.adamw import AdamW
from distft.config.optimizers.muon import in_layers
from distft.config.optimizers.sgd import Sgd
from distft.engine.layer_rates import layer_ratios
from distft.engine.optimizer import build_optimizer, set_rate
from distft.models.adapters.adapt import add_adapters
from tests.unit.models import tiny
from tests.unit.models.encoder_decoders import write_encoder_decoder
from tests.unit.models.encoders import write_encoder

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
    twice = "model.layers.0.mlp.up_proj.weight"
    doubled = build_optimizer(
        module, AdamW(layer_decay=0.5), torch.device("cpu"), lambda name: 2.0 if name == twice else 1.0
    )
    shares = {id(p): group["rate_ratio"] for group in doubled.param_groups for p in group["params"]}
    for name, parameter in module.named_parameters():
        assert shares[id(parameter)] == pytest.approx(10 * found[name] * (2 if name == twice else 1)), name
    t5 = T5ForConditionalGeneration(
        T5Config(d_model=8, d_kv=4, d_ff=8, num_layers=1, num_decoder_layers=3, num_heads=2, vocab_size=20)
    )
    ratios = layer_ratios(t5, 0.5)
    assert ratios["encoder.block.0.layer.1.DenseReluDense.wi.weight"] == 0.5
    assert ratios["decoder.block.0.layer.1.EncDecAttention.q.weight"] == 0.125
    assert ratios["shared.weight"] == 0.0625


def test_norms_of_embeddings_move_as_embeddings_do(tmp_path: Path) -> None:
    """Two layers each; what is above them, or an embedding's neighbour only, keeps the rate."""
    bert: Any = AutoModelForSequenceClassification.from_pretrained(
        write_encoder(tmp_path / "bert", "bert", num_labels=1)
    )
    ratios = layer_ratios(bert, 0.5)
    below = {name for name, ratio in ratios.items() if ratio == 0.125}
    assert below == {name for name in ratios if name.startswith("bert.embeddings.")}
    assert {"bert.embeddings.LayerNorm.weight", "bert.embeddings.LayerNorm.bias"} < below
    assert {ratios[name] for name in ("bert.pooler.dense.weight", "classifier.bias")} == {1.0}
    bart: Any = AutoModelForSeq2SeqLM.from_pretrained(write_encoder_decoder(tmp_path / "bart", "bart"))
    ratios, layers = layer_ratios(bart, 0.5), bart.config.encoder_layers
    assert {name for name, ratio in ratios.items() if ratio == 0.5 ** (layers + 1)} == {
        "model.shared.weight",
        *(f"model.{half}.embed_positions.weight" for half in ("encoder", "decoder")),
        *(f"model.{half}.layernorm_embedding.{part}" for half in ("encoder", "decoder") for part in ("weight", "bias")),
    }
    opt = AutoModelForCausalLM.from_config(OPTConfig(
        hidden_size=8, ffn_dim=8, num_hidden_layers=2, num_attention_heads=2, vocab_size=20, word_embed_proj_dim=8
    ))  # fmt: skip
    assert layer_ratios(opt, 0.5)["model.decoder.final_layer_norm.weight"] == 1.0


@pytest.mark.parametrize(
    "adapter", [PTuning(method="p_tuning"), PrefixTuning(method="prefix", projection=True)], ids=["p_tuning", "prefix"]
)
def test_the_encoder_of_virtual_tokens_is_no_layer(tmp_path: Path, adapter: VirtualTokens) -> None:
    """Though its parts have numbers: no share of a layer's rate, and nothing for Muon to turn."""
    module: Any = AutoModelForCausalLM.from_pretrained(tiny.write_model(tmp_path, "llama"))
    plain = layer_ratios(module, 0.5)
    add_adapters(module, adapter, dropout=False, seed=1)
    ratios = layer_ratios(module, 0.5)
    own = {name for name in ratios if name not in plain}
    assert "virtual_tokens.encoder.0.weight" in own
    assert {ratios[name] for name in own} == {1.0}
    assert {name: ratios[name] for name in plain} == plain
    turned = {name for name, _ in module.named_parameters() if in_layers(name)}
    assert turned == {name for name in plain if ".layers." in name}


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
