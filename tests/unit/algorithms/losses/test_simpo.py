"""SimPO by hand, and against TRL."""

from __future__ import annotations

import math
import warnings
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from distft.algorithms.losses.base import LossBatch, LossResult
from distft.algorithms.losses.simpo import Simpo


def result(rows: list[Tensor], beta: float, gamma: float) -> LossResult:
    """The loss of sequences that are chosen, rejected, chosen, ..."""
    segments = torch.repeat_interleave(torch.arange(len(rows)), torch.tensor([len(row) for row in rows]))
    every = torch.ones_like(segments, dtype=torch.bool)
    counts = {"tokens": float(len(segments)), "sequences": float(len(rows)), "units": len(rows) / 2}
    batch = LossBatch(every, segments, every[: len(rows)], {})
    return Simpo(beta=beta, gamma=gamma)({"logprobs": torch.cat(rows)}, batch, counts)


def test_one_pair_by_hand() -> None:
    """2 (ln 1/2 - ln 1/4) - ln 2 = ln 2: odds of 2 to 1, whatever the lengths."""
    found = result([torch.full((3,), math.log(0.5)), torch.full((9,), math.log(0.25))], beta=2.0, gamma=math.log(2))
    assert float(found.loss) == pytest.approx(math.log(3 / 2), rel=1e-6)
    assert float(found.metrics["rewards/margins"].value) == pytest.approx(2 * math.log(2), rel=1e-6)


@pytest.mark.parametrize(("beta", "gamma"), [(2.0, 1.0), (10.0, 0.0)])
def test_parity_with_trl(beta: float, gamma: float) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from trl.experimental.cpo import CPOTrainer
    generator = torch.Generator().manual_seed(3)
    rows = [-3 * torch.rand(length, generator=generator) for length in (5, 9, 1, 4, 30, 2)]
    ours, theirs = ([row.clone().requires_grad_() for row in rows] for _ in range(2))
    means = torch.stack([row.mean() for row in theirs])
    trainer = SimpleNamespace(
        alpha=0.0, loss_type="simpo", simpo_gamma=gamma, beta=beta, label_smoothing=0.0,
        accelerator=SimpleNamespace(device="cpu"),
    )  # fmt: skip
    losses, won, lost = CPOTrainer.cpo_loss(trainer, means[0::2], means[1::2])
    found = result(ours, beta, gamma)
    torch.testing.assert_close(found.loss, losses.mean(), rtol=1e-5, atol=1e-6)
    found.loss.backward()
    losses.mean().backward()
    for our_row, their_row in zip(ours, theirs, strict=True):
        torch.testing.assert_close(our_row.grad, their_row.grad, rtol=1e-5, atol=1e-7)
    logged = {"rewards/chosen": won, "rewards/rejected": lost, "rewards/accuracies": (won > lost).float()}
    for name, value in logged.items():
        assert float(found.metrics[name].value) / 3 == pytest.approx(float(value.mean()), rel=1e-5)


@pytest.mark.parametrize("wrong", [{"beta": 0.0}, {"gamma": -1.0}])
def test_what_has_no_meaning_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="beta must be above 0 and gamma not below"):
        Simpo(**wrong)
