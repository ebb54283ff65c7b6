from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from distft.algorithms.losses.base import Loss, LossBatch
from distft.algorithms.losses.ppo import PpoPolicy, PpoValue


def _run(loss: Loss, outputs: dict[str, Tensor], **columns: Tensor) -> tuple[Tensor, dict[str, float]]:
    count = len(next(iter(outputs.values())))
    batch = LossBatch(torch.ones(count).bool(), torch.zeros(count).long(), torch.ones(1).bool(), columns)
    denominators = {"tokens": float(count), "sequences": 1.0, "units": 1.0}
    result = loss(outputs, batch, denominators)
    metrics = {name: m.value.item() / denominators.get(m.reduce, 1.0) for name, m in result.metrics.items()}
    return result.loss, loss.finalize(metrics)


def _ratios(*ratios: float) -> Tensor:
    return torch.tensor(ratios).log().requires_grad_()


def test_clipping_by_hand() -> None:
    """Ratio 1.5 and 0.5 with both signs of advantage: clipped only where that lowers the objective."""
    logprobs = _ratios(1.5, 1.5, 0.5, 0.5)
    advantages = torch.tensor([1.0, -1.0, 1.0, -1.0])
    loss, metrics = _run(PpoPolicy(), {"logprobs": logprobs}, old_logprobs=torch.zeros(4), advantages=advantages)
    loss.backward()
    assert loss.item() == pytest.approx((-1.2 + 1.5 - 0.5 + 0.8) / 4, rel=1e-6)
    assert logprobs.grad is not None
    torch.testing.assert_close(logprobs.grad, torch.tensor([0.0, 1.5, -0.5, 0.0]) / 4)
    assert metrics["policy/clipfrac_avg"] == 0.5
    assert metrics["policy/approxkl_avg"] == pytest.approx((math.log(1.5) ** 2 + math.log(0.5) ** 2) / 4, rel=1e-6)
    assert metrics["val/ratio"] == pytest.approx(1.0)
    assert metrics["val/ratio_var"] == pytest.approx(0.25, rel=1e-6)
    assert metrics["loss/policy_avg"] == pytest.approx(loss.item(), rel=1e-6)


def test_ratio_moments_are_those_of_the_tokens() -> None:
    ratios = torch.tensor([1.0, 1.3, 2.0])
    outputs, zeros = {"logprobs": ratios.log()}, torch.zeros(3)
    _, metrics = _run(PpoPolicy(), outputs, old_logprobs=zeros, advantages=zeros)
    assert metrics["val/ratio"] == pytest.approx(ratios.mean().item(), rel=1e-6)
    assert metrics["val/ratio_var"] == pytest.approx(ratios.var(correction=0).item(), rel=1e-5)


def test_at_step_zero_ratio_is_one_and_nothing_is_clipped() -> None:
    logprobs, advantages = torch.tensor([-1.3, -0.2, -7.0]), torch.tensor([1.0, -2.0, 0.5])
    loss, metrics = _run(PpoPolicy(), {"logprobs": logprobs}, old_logprobs=logprobs.clone(), advantages=advantages)
    assert loss.item() == pytest.approx(0.5 / 3)
    expected = {"policy/approxkl_avg": 0.0, "policy/clipfrac_avg": 0.0, "val/ratio": 1.0, "val/ratio_var": 0.0}
    assert {name: metrics[name] for name in expected} == expected


def test_clip_higher_leaves_room_above() -> None:
    old, one = torch.zeros(1), torch.ones(1)
    loss, _ = _run(PpoPolicy(clip_high=0.4), {"logprobs": _ratios(1.5)}, old_logprobs=old, advantages=one)
    assert loss.item() == pytest.approx(-1.4, rel=1e-6)
    loss, _ = _run(PpoPolicy(clip_high=0.4), {"logprobs": _ratios(0.5)}, old_logprobs=old, advantages=-one)
    assert loss.item() == pytest.approx(0.8, rel=1e-6)


def test_dual_clip_bounds_negative_advantages_only() -> None:
    logprobs, advantages = _ratios(10.0, 10.0, 2.0), torch.tensor([-1.0, 1.0, -1.0])
    policy = PpoPolicy(dual_clip=3.0)
    loss, _ = _run(policy, {"logprobs": logprobs}, old_logprobs=torch.zeros(3), advantages=advantages)
    loss.backward()
    assert loss.item() == pytest.approx((3.0 - 1.2 + 2.0) / 3, rel=1e-6)
    assert logprobs.grad is not None
    torch.testing.assert_close(logprobs.grad, torch.tensor([0.0, 0.0, 2.0]) / 3)


def test_entropy_bonus_lowers_the_loss_and_is_no_part_of_the_policy_metric() -> None:
    entropy = torch.tensor([1.0, 3.0], requires_grad=True)
    outputs = {"logprobs": torch.zeros(2), "entropy": entropy}
    columns = {"old_logprobs": torch.zeros(2), "advantages": torch.zeros(2)}
    loss, metrics = _run(PpoPolicy(entropy_coef=0.1), outputs, **columns)
    loss.backward()
    assert loss.item() == pytest.approx(-0.2, rel=1e-6)
    assert entropy.grad is not None
    torch.testing.assert_close(entropy.grad, torch.full((2,), -0.05))
    assert metrics["policy/entropy_avg"] == 2.0
    assert metrics["loss/policy_avg"] == 0.0


def test_importance_weights_scale_tokens() -> None:
    columns = {"old_logprobs": torch.zeros(2), "advantages": torch.tensor([1.0, 2.0])}
    weights = torch.tensor([0.5, 2.0])
    loss, _ = _run(PpoPolicy(), {"logprobs": torch.zeros(2)}, **columns, importance_weights=weights)
    assert loss.item() == pytest.approx(-(0.5 + 4.0) / 2)


def test_value_clipping_by_hand() -> None:
    """Old value 0, return 1: the prediction may not profit from moving more than 0.2 from the old one."""
    values = torch.tensor([0.1, 0.5, -0.5], requires_grad=True)
    old, returns = torch.zeros(3), torch.ones(3)
    loss, metrics = _run(PpoValue(), {"values": values}, values=old, returns=returns)
    loss.backward()
    assert loss.item() == pytest.approx(0.5 * (0.9**2 + 0.8**2 + 1.5**2) / 3, rel=1e-6)
    assert values.grad is not None
    torch.testing.assert_close(values.grad, torch.tensor([-0.9, 0.0, -1.5]) / 3)
    assert metrics["val/clipfrac_avg"] == pytest.approx(1 / 3)
    assert metrics["loss/value_avg"] == pytest.approx(loss.item(), rel=1e-6)
    free, _ = _run(PpoValue(value_clip=None), {"values": values.detach()}, values=old, returns=returns)
    assert free.item() == pytest.approx(0.5 * (0.9**2 + 0.5**2 + 1.5**2) / 3, rel=1e-6)


def test_explained_variance() -> None:
    returns = torch.tensor([1000.0, 1001.0, 1002.0, 1005.0])
    old = returns + torch.tensor([3.5, 2.5, 3.5, 2.5])
    _, metrics = _run(PpoValue(), {"values": old}, values=old, returns=returns)
    residual = returns - old
    expected = 1 - (residual.var() / returns.var()).item()
    assert metrics["val/explained_variance"] == pytest.approx(expected, rel=1e-6)
    assert set(metrics) == {"loss/value_avg", "val/clipfrac_avg", "val/explained_variance"}


def test_constant_returns_have_no_variance_to_explain() -> None:
    returns = torch.full((3,), 0.1)
    _, metrics = _run(PpoValue(), {"values": returns}, values=torch.tensor([0.0, 1.0, 2.0]), returns=returns)
    assert metrics["val/explained_variance"] == 0.0


def test_bfloat16_values_are_lifted() -> None:
    values = torch.tensor([1.0, 2.0], dtype=torch.bfloat16, requires_grad=True)
    loss, _ = _run(PpoValue(), {"values": values}, values=torch.zeros(2), returns=torch.full((2,), 1.001))
    assert loss.dtype == torch.float32
