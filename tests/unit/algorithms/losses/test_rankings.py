from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch

from distft.algorithms.losses.base import LossBatch
from distft.algorithms.losses.rankings import Rankings
from distft.algorithms.losses.reward import Reward


def _run(
    loss: Rankings | Reward, scores: torch.Tensor, units: Sequence[int], ranks: Sequence[int], **columns: torch.Tensor
) -> tuple[torch.Tensor, dict[str, float]]:
    count = len(scores)
    told = {"unit": torch.tensor(units).float(), "rank": torch.tensor(ranks).float(), **columns}
    batch = LossBatch(torch.ones(count).bool(), torch.arange(count), torch.ones(count).bool(), told)
    denominators = {"tokens": float(count), "sequences": float(count), "units": float(len(set(units)))}
    result = loss({"values": scores}, batch, denominators)
    metrics = {name: m.value.item() / denominators.get(m.reduce, 1.0) for name, m in result.metrics.items()}
    return result.loss, loss.finalize(metrics)


def test_hand_worked() -> None:
    """Three answers in order; four of which the middle ones are tied; two, the better one last."""
    scores = torch.tensor([2.0, 1.0, -1.0, 0.5, 3.0, -2.0, 0.0, 1.5, 1.0])
    ranks = [0, 1, 2, 0, 1, 1, 2, 1, 0]
    loss, metrics = _run(Rankings(center_coef=0.01, margin=0.5), scores, [0] * 3 + [1] * 4 + [2] * 2, ranks)
    prompts = [
        [(2.0, 1.0), (2.0, -1.0), (1.0, -1.0)],
        [(0.5, 3.0), (0.5, -2.0), (0.5, 0.0), (3.0, 0.0), (-2.0, 0.0)],
        [(1.0, 1.5)],
    ]

    def term(better: float, worse: float) -> float:
        return math.log1p(math.exp(-(better - worse - 0.5))) + 0.01 * (better + worse) ** 2

    means = [sum(term(*pair) for pair in pairs) / len(pairs) for pairs in prompts]
    assert loss.item() == pytest.approx(sum(means) / 3, rel=1e-6)
    differences = [better - worse for pairs in prompts for better, worse in pairs]
    assert metrics == pytest.approx(
        {
            "accuracy": 6 / 9,
            "margin": sum(differences) / 9,
            "mean_reward": 6.0 / 9,
            "min_reward": -2.0,
            "max_reward": 3.0,
        }
    )


def test_of_two_answers_it_is_the_loss_of_pairs() -> None:
    generator = torch.Generator().manual_seed(1)
    of_pairs, of_rankings = (torch.empty(12).requires_grad_() for _ in range(2))
    with torch.no_grad():
        of_pairs.copy_(torch.randn(12, generator=generator))
        of_rankings.copy_(of_pairs)
    margins = torch.rand(6, generator=generator).repeat_interleave(2)
    units, ranks = [unit for unit in range(6) for _ in range(2)], [0, 1] * 6
    expected, theirs = _run(Reward(0.1, 0.3), of_pairs, units, ranks, margin=margins)
    loss, metrics = _run(Rankings(0.1, 0.3), of_rankings, units, ranks, margin=margins)
    expected.backward()
    loss.backward()
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=0)
    torch.testing.assert_close(of_rankings.grad, of_pairs.grad, rtol=1e-6, atol=1e-7)
    assert metrics == pytest.approx(theirs, rel=1e-9)


def test_a_prompt_of_many_answers_counts_as_one_of_two() -> None:
    """Ouyang et al. 2022: else those with more answers would be learned by heart first."""
    scores = torch.zeros(6, requires_grad=True)
    _run(Rankings(), scores, [0, 0, 1, 1, 1, 1], [0, 1, 0, 1, 2, 3])[0].backward()
    assert scores.grad is not None
    assert scores.grad.tolist() == pytest.approx([-0.25, 0.25, -0.125, -1 / 24, 1 / 24, 0.125])


def test_order_in_the_micro_batch_does_not_matter() -> None:
    scores, units, ranks = torch.tensor([0.3, -1.0, 2.0, 0.1, 0.7]), [0, 0, 0, 1, 1], [0, 1, 2, 0, 1]
    order = [4, 2, 0, 3, 1]
    there = _run(Rankings(0.1), scores, units, ranks)
    here = _run(Rankings(0.1), scores[order], [units[i] for i in order], [ranks[i] for i in order])
    torch.testing.assert_close(here[0], there[0], rtol=1e-6, atol=0)
    assert here[1] == pytest.approx(there[1])
