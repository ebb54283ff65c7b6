"""RLOO's loss by hand, and TRL's own on random batches."""

from __future__ import annotations

from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from distft.algorithms.losses.base import LossBatch
from distft.algorithms.losses.rloo import RlooPolicy


def run(logprobs: Tensor, lengths: list[int], old: Tensor, advantages: Tensor) -> tuple[Tensor, dict[str, float]]:
    """``advantages`` one a response."""
    segments = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))
    columns = {"old_logprobs": old, "advantages": advantages[segments]}
    batch = LossBatch(torch.ones(len(segments)).bool(), segments, torch.ones(len(lengths)).bool(), columns)
    denominators = {"tokens": float(len(segments)), "sequences": float(len(lengths)), "units": float(len(lengths))}
    loss = RlooPolicy()
    result = loss({"logprobs": logprobs}, batch, denominators)
    metrics = {name: m.value.item() / denominators.get(m.reduce, 1.0) for name, m in result.metrics.items()}
    return result.loss, loss.finalize(metrics)


def test_the_gradient_is_reinforces_where_the_ratio_is_one() -> None:
    logprobs = torch.tensor([-1.0, -2.0, -0.5], requires_grad=True)
    loss, metrics = run(logprobs, [2, 1], logprobs.detach().clone(), torch.tensor([3.0, -1.0]))
    loss.backward()
    assert logprobs.grad is not None
    assert logprobs.grad.tolist() == [-1.5, -1.5, 0.5]
    assert (metrics["val/ratio"], metrics["clip_ratio/region_mean"]) == (1.0, 0.0)


def test_the_ratio_is_the_responses() -> None:
    """1.1 x 1.2 = 1.32 is clipped to 1.2, though neither token's ratio would be."""
    logprobs = torch.tensor([1.1, 1.2]).log().requires_grad_()
    loss, metrics = run(logprobs, [2], torch.zeros(2), torch.ones(1))
    loss.backward()
    assert loss.item() == pytest.approx(-1.2, rel=1e-6)
    assert logprobs.grad is not None
    assert logprobs.grad.tolist() == [0.0, 0.0]
    assert metrics["val/ratio"] == pytest.approx(1.32, rel=1e-6)
    assert metrics["clip_ratio/region_mean"] == 1.0


def trls(inputs: dict[str, Tensor], logprobs: Tensor) -> Tensor:
    """TRL's own ``RLOOTrainer._compute_loss`` over log-probs that are given."""
    from trl import RLOOTrainer

    settings: Any = SimpleNamespace(
        _get_per_token_logps_and_entropies=lambda *_, **__: (logprobs, torch.zeros_like(logprobs), None),
        aux_loss_enabled=False, epsilon_low=0.2, epsilon_high=0.2,
        model=SimpleNamespace(training=True), _metrics={"train": defaultdict(list)},
        accelerator=SimpleNamespace(reduce=lambda value, **_: value, gather=lambda value: value),
    )  # fmt: skip
    loss: Tensor = RLOOTrainer._compute_loss(settings, settings.model, inputs)
    return loss


def test_parity_with_trl() -> None:
    generator = torch.Generator().manual_seed(12)
    lengths = [5, 9, 1, 12, 7, 3]
    mask = torch.arange(12)[None] < torch.tensor(lengths)[:, None]
    logprobs = (torch.randn(mask.shape, generator=generator) - 3).requires_grad_()
    old = logprobs.detach() + 0.1 * torch.randn(mask.shape, generator=generator)
    advantages = torch.randn(len(lengths), generator=generator)
    ids = torch.zeros(mask.shape, dtype=torch.long)
    inputs = {
        "prompt_ids": ids, "prompt_mask": torch.ones_like(ids), "completion_ids": ids, "completion_mask": mask.long(),
        "advantages": advantages, "old_logps": (old * mask).sum(1),
    }  # fmt: skip
    expected = trls(inputs, logprobs)
    [theirs] = torch.autograd.grad(expected, logprobs)
    got, metrics = run(logprobs[mask], lengths, old[mask], advantages)
    [ours] = torch.autograd.grad(got, logprobs)
    assert 0 < metrics["clip_ratio/region_mean"] < 1
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
