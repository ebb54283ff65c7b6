"""The supervised references against Hugging Face's own loss, hand-worked values and finite steps."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification

from tests.reference import supervised_reference as reference
from tests.reference.supervised_reference import Row


def config(**changes: Any) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=24, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=64, bos_token_id=0, eos_token_id=1, pad_token_id=2, **changes,
    )  # fmt: skip


def sgd(model: torch.nn.Module) -> torch.optim.SGD:
    return torch.optim.SGD(model.parameters(), lr=0.1)


def test_sft_loss_is_hugging_faces_on_one_row() -> None:
    torch.manual_seed(0)
    model = LlamaForCausalLM(config())
    tokens = torch.tensor([[3, 4, 5, 6, 7]])
    expected = model(input_ids=tokens, labels=torch.tensor([[-100, -100, 5, 6, 7]])).loss.item()
    step = reference.sft_step(model, sgd(model), [Row.of([3, 4], [5, 6, 7])], 1e9)
    assert step.loss == pytest.approx(expected, abs=1e-6)
    again = reference.sft_step(model, sgd(model), [Row.of([3, 4], [5, 6, 7])], 1e9)
    assert again.loss < step.loss


def test_sft_mean_is_over_tokens_not_over_rows() -> None:
    torch.manual_seed(0)
    model = LlamaForCausalLM(config())
    rows = [Row.of([3], [4]), Row.of([5], [6, 7, 8, 9])]
    alone = [reference.sft_step(copy.deepcopy(model), sgd(model), [row], 1e9).loss for row in rows]
    both = reference.sft_step(model, sgd(model), rows, 1e9).loss
    assert both == pytest.approx((alone[0] + 4 * alone[1]) / 5, abs=1e-6)


def test_sft_never_learns_the_first_token() -> None:
    torch.manual_seed(0)
    model = LlamaForCausalLM(config())
    whole = Row([3, 4, 5], [1, 1, 1])
    rest = Row([3, 4, 5], [0, 1, 1])
    losses = [reference.sft_step(copy.deepcopy(model), sgd(model), [row], 1e9).loss for row in (whole, rest)]
    assert losses[0] == losses[1]


def test_reward_step_by_hand() -> None:
    torch.manual_seed(0)
    model = LlamaForSequenceClassification(config(num_labels=1))
    better, worse = [3, 4, 5], [3, 4]
    with torch.no_grad():
        r_w = model(input_ids=torch.tensor([better])).logits.item()
        r_l = model(input_ids=torch.tensor([worse])).logits.item()
    step = reference.reward_step(model, sgd(model), [(better, worse)], 1e9, margin=0.5, center_coef=0.01)
    expected = math.log1p(math.exp(-(r_w - r_l - 0.5))) + 0.01 * (r_w + r_l) ** 2
    assert step.loss == pytest.approx(expected, abs=1e-5)
    assert step.metrics["margin"] == pytest.approx(r_w - r_l, abs=1e-6)
    assert step.metrics["accuracy"] == float(r_w > r_l)


def test_dpo_starts_at_log_two_and_learns() -> None:
    torch.manual_seed(0)
    policy = LlamaForCausalLM(config())
    frozen = copy.deepcopy(policy)
    pairs = [(Row.of([3], [4, 5]), Row.of([3], [6])), (Row.of([7, 8], [9]), Row.of([7, 8], [10, 11, 12]))]
    optimizer = sgd(policy)
    first = reference.dpo_step(policy, frozen, optimizer, pairs, 1e9, beta=0.1)
    assert first.loss == pytest.approx(math.log(2), abs=1e-6)
    assert first.metrics["rewards/margins"] == 0
    second = reference.dpo_step(policy, frozen, optimizer, pairs, 1e9, beta=0.1)
    assert second.loss < first.loss
    margin = second.metrics["rewards/chosen"] - second.metrics["rewards/rejected"]
    assert second.metrics["rewards/margins"] == pytest.approx(margin, abs=1e-6)
    assert margin > 0
