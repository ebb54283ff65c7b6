"""SimPO by hand, and against TRL."""

from __future__ import annotations

import math
import warnings
from types import SimpleNamespace

import pytest
import torch

from distft.algorithms.losses.simpo import Simpo
from tests.unit.algorithms.losses.pair_rows import random_rows, result


def test_one_pair_by_hand() -> None:
    """2 (ln 1/2 - ln 1/4) - ln 2 = ln 2: odds of 2 to 1, whatever the lengths."""
    rows = [torch.full((3,), math.log(0.5)), torch.full((9,), math.log(0.25))]
    found = result(Simpo(beta=2.0, gamma=math.log(2)), rows)
    assert float(found.loss) == pytest.approx(math.log(3 / 2), rel=1e-6)
    assert float(found.metrics["rewards/margins"].value) == pytest.approx(2 * math.log(2), rel=1e-6)


@pytest.mark.parametrize(("beta", "gamma"), [(2.0, 1.0), (10.0, 0.0)])
def test_parity_with_trl(beta: float, gamma: float) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from trl.experimental.cpo import CPOTrainer
    ours, theirs = ([row.clone().requires_grad_() for row in random_rows()] for _ in range(2))
    means = torch.stack([row.mean() for row in theirs])
    trainer = SimpleNamespace(
        alpha=0.0, loss_type="simpo", simpo_gamma=gamma, beta=beta, label_smoothing=0.0,
        accelerator=SimpleNamespace(device="cpu"),
    )  # fmt: skip
    losses, won, lost = CPOTrainer.cpo_loss(trainer, means[0::2], means[1::2])
    found = result(Simpo(beta=beta, gamma=gamma), ours)
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
