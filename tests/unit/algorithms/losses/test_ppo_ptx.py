"""PPO-ptx worked by hand, and as the sum of the losses that it is made of."""

from __future__ import annotations

import pytest
import torch

from distft.algorithms.losses.base import LossBatch
from distft.algorithms.losses.ppo import PpoPolicy
from distft.algorithms.losses.ppo_ptx import PpoPtx
from distft.algorithms.losses.sft import Sft

MASK = torch.tensor([1, 1, 1, 0, 1, 1], dtype=torch.bool)
SEGMENTS = torch.tensor([0, 0, 1, 1, 1, 2])  # a response of two tokens, a text of three, of which one is no target, ...
COLUMNS = {
    "advantages": torch.tensor([1.0, -2.0, 9.0, 9.0, 9.0, 9.0]), "old_logprobs": torch.full((6,), -1.0),
    "ptx": torch.tensor([0.0, 1.0, 1.0]),
}  # fmt: skip
LOGPROBS = [-0.9, -1.1, -2.0, -7.0, -3.0, -4.0]


def test_by_hand() -> None:
    """Ratios e^0.1 and e^-0.1 are within the clip of 0.2; the texts' three targets cost 2, 3 and 4 nats."""
    logprobs = torch.tensor(LOGPROBS, requires_grad=True)
    batch = LossBatch(MASK, SEGMENTS, torch.ones(3, dtype=torch.bool), COLUMNS)
    loss = PpoPtx(clip=0.2, ptx_coef=0.5)
    found = loss({"logprobs": logprobs}, batch, {"tokens": 2.0, "sequences": 1.0, "units": 1.0, "ptx_tokens": 3.0})
    sampled = -(torch.tensor(0.1).exp() - 2 * torch.tensor(-0.1).exp()) / 2
    assert found.loss.item() == pytest.approx(sampled.item() + 0.5 * (2 + 3 + 4) / 3, rel=1e-6)
    found.loss.backward()
    assert logprobs.grad is not None
    assert logprobs.grad[2:].tolist() == pytest.approx([-0.5 / 3, 0, -0.5 / 3, -0.5 / 3])
    assert found.metrics["ptx/loss"].reduce == "ptx_tokens"
    assert found.metrics["ptx/loss"].value.item() == pytest.approx(9)
    assert found.metrics["loss/policy_avg"].value.item() == pytest.approx(2 * sampled.item(), rel=1e-6)


def test_it_is_ppo_and_sft_of_their_own_rows() -> None:
    """Each with its own denominator; the row of a dummy counts in neither."""
    real, ptx = torch.tensor([True, True, False]), COLUMNS["ptx"] == 1
    logprobs = torch.tensor(LOGPROBS)
    both = PpoPtx(ptx_coef=27.8)(
        {"logprobs": logprobs}, LossBatch(MASK, SEGMENTS, real, COLUMNS), {"tokens": 5.0, "ptx_tokens": 7.0}
    )
    ppo = PpoPolicy()({"logprobs": logprobs}, LossBatch(MASK, SEGMENTS, real & ~ptx, COLUMNS), {"tokens": 5.0})
    sft = Sft()({"logprobs": logprobs}, LossBatch(MASK, SEGMENTS, real & ptx, COLUMNS), {"tokens": 7.0})
    assert both.loss.item() == pytest.approx(ppo.loss.item() + 27.8 * sft.loss.item(), rel=1e-6)
    assert {name: metric.value for name, metric in both.metrics.items() if name != "ptx/loss"} == {
        name: metric.value for name, metric in ppo.metrics.items()
    }


def test_without_a_weight_it_is_no_ptx() -> None:
    with pytest.raises(ValueError, match="ptx_coef must be above 0"):
        PpoPtx(ptx_coef=0.0)
