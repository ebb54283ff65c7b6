"""CPO by hand, and against TRL."""

from __future__ import annotations

import math
import warnings
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from distft.algorithms.losses.cpo import Cpo
from tests.unit.algorithms.losses.pair_rows import random_rows, result


def test_one_pair_by_hand() -> None:
    """Log-probs -3 ln 2 and -4 ln 2: at beta 2 the odds of the right order are 4, and imitation costs ln 2 a token."""
    chosen, rejected = torch.full((3,), math.log(0.5)), torch.full((2,), math.log(0.25))
    found = result(Cpo(beta=2.0, nll_weight=0.5), [chosen, rejected])
    assert float(found.loss) == pytest.approx(math.log(5 / 4) + 0.5 * math.log(2), rel=1e-6)
    assert float(found.metrics["rewards/margins"].value) == pytest.approx(2 * math.log(2), rel=1e-6)
    assert float(found.metrics["nll_loss"].value) == pytest.approx(math.log(2), rel=1e-6)


@pytest.mark.parametrize("label_smoothing", [0.0, 0.2])
def test_parity_with_trl(label_smoothing: float) -> None:
    """The preference's term and its gradients from TRL's own function; imitation as the house means it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from trl.experimental.cpo import CPOTrainer
    ours, theirs = ([row.clone().requires_grad_() for row in random_rows()] for _ in range(2))
    sums = torch.stack([row.sum() for row in theirs])
    trainer = SimpleNamespace(
        alpha=0.0, loss_type="sigmoid", beta=0.1, label_smoothing=label_smoothing,
        accelerator=SimpleNamespace(device="cpu"),
    )  # fmt: skip
    terms, won, lost = CPOTrainer.cpo_loss(trainer, sums[0::2], sums[1::2])
    nll = torch.stack([F.nll_loss(row[:, None], torch.zeros(len(row), dtype=torch.long)) for row in theirs[0::2]])
    expected = terms.mean() + nll.mean()
    found = result(Cpo(label_smoothing=label_smoothing), ours)
    torch.testing.assert_close(found.loss, expected, rtol=1e-5, atol=1e-6)
    found.loss.backward()
    expected.backward()
    for our_row, their_row in zip(ours, theirs, strict=True):
        torch.testing.assert_close(our_row.grad, their_row.grad, rtol=1e-5, atol=1e-7)
    logged = {"rewards/chosen": won, "rewards/rejected": lost, "rewards/accuracies": (won > lost).float()}
    for name, value in logged.items():
        assert float(found.metrics[name].value) / 3 == pytest.approx(float(value.mean()), rel=1e-5)


@pytest.mark.parametrize("wrong", [{"beta": 0.0}, {"nll_weight": -1.0}, {"label_smoothing": 0.5}])
def test_values_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must be"):
        Cpo(**wrong)
