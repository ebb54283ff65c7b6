"""ORPO by hand, and against TRL."""

from __future__ import annotations

import math
import warnings
from types import SimpleNamespace

import pytest
import torch

from distft.algorithms.losses.orpo import Orpo
from tests.unit.algorithms.losses.pair_rows import random_rows, result


def test_one_pair_by_hand() -> None:
    """Mean probabilities 1/2 and 1/4: odds 1 and 1/3, so the log odds ratio is ln 3."""
    chosen, rejected = torch.full((3,), math.log(0.5)), torch.full((2,), math.log(0.25))
    found = result(Orpo(beta=0.5), [chosen, rejected])
    assert float(found.loss) == pytest.approx(math.log(2) - 0.5 * math.log(3 / 4), rel=1e-6)
    assert float(found.metrics["log_odds_chosen"].value) == pytest.approx(math.log(3), rel=1e-6)
    assert float(found.metrics["nll_loss"].value) == pytest.approx(math.log(2), rel=1e-6)


@pytest.mark.parametrize("beta", [0.1, 1.0])
def test_parity_with_trl(beta: float) -> None:
    """The odds ratio's term and its gradients; imitation is the paper's, a mean over pairs."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from trl.experimental.orpo import ORPOTrainer
    ours, theirs = ([row.clone().requires_grad_() for row in random_rows()] for _ in range(2))
    means = torch.stack([row.mean() for row in theirs])
    trainer = SimpleNamespace(beta=beta, accelerator=SimpleNamespace(device="cpu"))
    terms, won, lost, ratio, odds = ORPOTrainer.odds_ratio_loss(trainer, means[0::2], means[1::2])
    expected = -means[0::2].mean() - terms.mean()
    found = result(Orpo(beta=beta), ours)
    torch.testing.assert_close(found.loss, expected, rtol=1e-5, atol=1e-6)
    found.loss.backward()
    expected.backward()
    for our_row, their_row in zip(ours, theirs, strict=True):
        torch.testing.assert_close(our_row.grad, their_row.grad, rtol=1e-5, atol=1e-7)
    logged = {
        "rewards/chosen": won.mean(), "rewards/margins": (won - lost).mean(), "log_odds_ratio": ratio,
        "log_odds_chosen": odds, "rewards/accuracies": (won > lost).float().mean(),
    }  # fmt: skip
    for name, value in logged.items():
        assert float(found.metrics[name].value) / 3 == pytest.approx(float(value.detach()), rel=1e-5)


def test_a_certain_token_has_finite_odds() -> None:
    rows = [torch.zeros(2, requires_grad=True), torch.full((2,), -1.0, requires_grad=True)]
    found = result(Orpo(), rows)
    found.loss.backward()
    assert math.isfinite(float(found.loss.detach()))
    assert all(bool(row.grad.isfinite().all()) for row in rows)


def test_beta_must_weigh_something() -> None:
    with pytest.raises(ValueError, match="beta must be above 0"):
        Orpo(beta=0.0)
