"""Liger's layers compute what transformers' do, in every family for which they are taken, and stay in one model."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from distft.models.liger import use_liger
from distft.planning.liger import LIGER_FAMILIES

pytestmark = pytest.mark.gpu

SIZES: dict[str, Any] = {
    "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 64, "vocab_size": 512, "max_position_embeddings": 256, "pad_token_id": 0,
    "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip


def _model(family: str) -> Any:
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, **SIZES)
    return AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").to("cuda", torch.float32).train()  # type: ignore[no-untyped-call]


def _pass(model: Any, ids: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    logprobs = model(input_ids=ids, use_cache=False).logits.log_softmax(-1)
    loss = -logprobs[:, :-1].gather(2, ids[:, 1:, None]).mean()
    loss.backward()
    return logprobs.detach(), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("family", sorted(LIGER_FAMILIES))
def test_log_probabilities_and_gradients_are_transformers(family: str) -> None:
    plain = _model(family)
    fast = copy.deepcopy(plain)
    assert use_liger(fast, "auto", "here")
    ids = torch.randint(3, 512, (2, 128), device="cuda", generator=torch.Generator("cuda").manual_seed(1))
    (wanted, gradients), (found, others) = _pass(plain, ids), _pass(fast, ids)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
    assert others.keys() == gradients.keys()
    for name, gradient in gradients.items():
        assert (others[name] - gradient).norm() <= 1e-3 * gradient.norm() + 1e-7, name


def test_a_model_made_afterwards_is_plain() -> None:
    fast = _model("llama")
    assert use_liger(fast, "liger", "here")
    after = _model("llama")
    norm, attention = after.model.layers[0].input_layernorm, after.model.layers[0].self_attn
    assert "forward" in vars(fast.model.layers[0].self_attn)
    assert "forward" not in vars(norm)
    assert "forward" not in vars(attention)
    assert type(norm).__module__.startswith("transformers")
