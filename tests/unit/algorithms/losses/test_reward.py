from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from distft.algorithms.losses.base import LossBatch
from distft.algorithms.losses.reward import Reward

SCORES = [2.0, 1.0, -1.0, 0.5, 3.0, 3.0]  # chosen, rejected, chosen, ...


def _ours(loss: Reward, scores: torch.Tensor, **columns: torch.Tensor) -> tuple[torch.Tensor, dict[str, float]]:
    count = len(scores)
    batch = LossBatch(torch.ones(count).bool(), torch.arange(count), torch.ones(count).bool(), columns)
    denominators = {"tokens": float(count), "sequences": float(count), "units": count / 2}
    result = loss({"values": scores}, batch, denominators)
    metrics = {name: m.value.item() / denominators.get(m.reduce, 1.0) for name, m in result.metrics.items()}
    return result.loss, loss.finalize(metrics)


def test_hand_worked() -> None:
    loss, metrics = _ours(Reward(center_coef=0.01, margin=0.5), torch.tensor(SCORES))
    pairs = [(2.0, 1.0), (-1.0, 0.5), (3.0, 3.0)]
    expected = sum(math.log1p(math.exp(-(w - r - 0.5))) + 0.01 * (w + r) ** 2 for w, r in pairs) / 3
    assert loss.item() == pytest.approx(expected, rel=1e-6)
    assert metrics == pytest.approx(
        {"accuracy": 1 / 3, "margin": -0.5 / 3, "mean_reward": 8.5 / 6, "min_reward": -1.0, "max_reward": 3.0}
    )


@pytest.mark.parametrize("center", [0.0, 0.01])
@pytest.mark.parametrize("margins", [[0.0, 0.0, 0.0], [0.7, 0.7, 0.7], [0.0, 2.5, -0.5]])
@pytest.mark.parametrize("by_row", [True, False])
def test_parity_with_trl(center: float, margins: list[float], by_row: bool) -> None:
    """RewardTrainer.compute_loss itself, on a model that answers with given rewards."""
    from trl import RewardTrainer

    ours = torch.tensor(SCORES, requires_grad=True)
    # What the rows say and what is asked of every pair are added up.
    of_all = margins[0] if not by_row else 0.25
    of_rows = torch.tensor(margins).repeat_interleave(2) - of_all
    loss, metrics = _ours(Reward(center_coef=center, margin=of_all), ours, margin=of_rows)
    loss.backward()

    theirs = torch.tensor(SCORES, requires_grad=True)
    logits = torch.cat([theirs[0::2], theirs[1::2]])[:, None]
    logged: dict[str, list[float]] = {name: [] for name in metrics}
    trainer: Any = SimpleNamespace(
        model=SimpleNamespace(training=False),
        args=SimpleNamespace(center_rewards_coefficient=center or None),
        accelerator=SimpleNamespace(gather=lambda x: x, gather_for_metrics=lambda x: x),
        _metrics={"eval": logged},
        _total_train_tokens=0,
    )
    inputs = {"margin": torch.tensor(margins)}
    expected = RewardTrainer.compute_loss(trainer, lambda **_: SimpleNamespace(logits=logits), inputs)
    expected.backward()
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(ours.grad, theirs.grad)
    assert metrics == pytest.approx({name: logged[name][0] for name in metrics})


def test_real_sequences_must_be_pairs() -> None:
    with pytest.raises(ValueError, match="3 sequences are not pairs"):
        _ours(Reward(), torch.zeros(3))


def test_very_unequal_rewards_stay_finite() -> None:
    scores = torch.tensor([-1e4, 1e4], requires_grad=True)
    loss, _ = _ours(Reward(), scores)
    loss.backward()
    assert loss.item() == pytest.approx(2e4)
    assert scores.grad is not None
    assert scores.grad.tolist() == [-1.0, 1.0]
