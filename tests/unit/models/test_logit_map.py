"""What models do to their head's products, told by the models."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from distft.algorithms.linear_logprobs import LogitMap
from distft.models.logit_map import find_logit_map
from distft.planning.architectures import FAMILIES
from tests.unit.models import tiny

SIZES: dict[str, Any] = tiny.SIZES | {"num_hidden_layers": 1, "vocab_size": 96, "pad_token_id": 0}
EXPERTS = {"head_dim": 8, "num_experts": 2, "num_experts_per_tok": 1, "moe_intermediate_size": 8}
MORE: dict[str, dict[str, Any]] = {
    "qwen3_moe": EXPERTS,
    "mixtral": {"num_local_experts": 2},
    "gemma2": {"head_dim": 8, "final_logit_softcapping": 30.0},
    "gemma3_text": {"head_dim": 8, "final_logit_softcapping": 7.0},
    "gpt2": {"n_embd": 16, "n_layer": 1, "n_head": 2},
    "opt": {"ffn_dim": 32, "word_embed_proj_dim": 8},
    "granite": {"logits_scaling": 8.0},
    "cohere": {"logit_scale": 0.0625},
    "falcon_h1": {"lm_head_multiplier": 0.3},
}
EXPECTED = {
    "gemma2": LogitMap(cap=30.0),
    "gemma3_text": LogitMap(cap=7.0),
    "granite": LogitMap(scale=0.125),
    "cohere": LogitMap(scale=0.0625),
}


def model(architecture: str) -> Any:
    return AutoModelForCausalLM.from_config(CONFIG_MAPPING[architecture](**SIZES | MORE.get(architecture, {})))


@pytest.mark.parametrize("architecture", sorted({*FAMILIES, *EXPECTED} - {"t5", "mt5", "bert"}))
def test_every_family_of_the_plan_is_fused(architecture: str) -> None:
    assert find_logit_map(model(architecture)) == EXPECTED.get(architecture, LogitMap())


def test_what_does_more_to_its_states_than_a_linear_head_is_left_alone() -> None:
    bert = model("bert")
    assert find_logit_map(bert) is None
    assert "forward" not in bert.bert.__dict__


def test_logits_that_are_neither_scaled_nor_capped_are_seen() -> None:
    llama = model("llama")
    plain = llama.forward
    state = torch.get_rng_state()

    def shifted(**inputs: Any) -> Any:
        output = plain(**inputs)
        output.logits = output.logits + 1.0
        return output

    llama.forward = shifted
    assert find_logit_map(llama) is None
    assert torch.equal(torch.get_rng_state(), state)
