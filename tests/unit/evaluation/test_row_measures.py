"""Metrics of a few rows, worked by hand."""

from __future__ import annotations

import numpy as np
import pytest

from distft.evaluation.measures import Measure
from distft.evaluation.row_measures import of_answers, of_labelled, of_pairs, of_rewards, of_samples, win_rate


def values(measures: dict[str, Measure]) -> dict[str, float]:
    return {name: measure.total for name, measure in measures.items()}


def test_answers() -> None:
    found = values(of_answers(np.array([-2.0, -6.0]), np.array([1.0, 3.0]), np.array([1.0, 1.0])))
    assert found == pytest.approx({"loss": 2.0, "perplexity": np.exp(2.0), "token_accuracy": 0.5})


def test_pairs() -> None:
    """The first pair's chosen answer is likelier, the second's only per token, the third's is a tie: no win."""
    logprobs, lengths = np.array([-2.0, -3.0, -8.0, -6.0, -1.0, -1.0]), np.array([2.0, 2.0, 4.0, 2.0, 1.0, 1.0])
    reference = np.array([-3.0, -3.0, -9.0, -6.0, -1.0, -1.0])
    found = values(of_pairs(logprobs, lengths, reference, beta=0.5))
    assert found == pytest.approx(
        {
            "logps/chosen": -11 / 3,
            "logps/rejected": -10 / 3,
            "logps/accuracies": 1 / 3,
            "mean_logps/accuracies": 2 / 3,
            "rewards/chosen": (0.5 + 0.5 + 0) / 3,
            "rewards/rejected": 0.0,
            "rewards/accuracies": 2 / 3,
            "rewards/margins": 1 / 3,
        }
    )
    assert "rewards/margins" not in of_pairs(logprobs, lengths)


def test_rewards_and_wins() -> None:
    found = of_rewards(np.array([2.0, 1.0, 0.0, 3.0]), np.array([0, 0, 1, 1]), np.array([0, 1, 0, 1], np.uint8))
    assert values(found) == {"accuracy": 0.5, "margin": -1.0, "mean_reward": 1.5}
    first, second = np.array([0.0, 1.0, 2.0, 5.0]), np.array([1.0, 1.0, 1.0, 6.0])
    assert win_rate(first, second).total == (1 + 0.5 + 0 + 1) / 4
    assert len(win_rate(first, second, repeats=2).rows) == 2


def test_rewards_of_rankings_are_of_all_their_pairs() -> None:
    """Three answers, the last two tied, and a pair: two prompts are two rows to be drawn, with three pairs in all."""
    scores, units = np.array([2.0, 3.0, 0.0, 1.0, 0.5]), np.array([0, 0, 0, 1, 1])
    found = of_rewards(scores, units, np.array([0, 1, 1, 0, 1], np.uint8))
    assert values(found) == pytest.approx({"accuracy": 2 / 3, "margin": 1.5 / 3, "mean_reward": 1.3})
    assert {len(measure.rows) for measure in found.values()} == {2}


def test_samples_of_a_prompt_are_one_row() -> None:
    found = of_samples([1, 3, 5, 7], [True, True, False, True], np.array([0.0, 2.0, 1.0, 1.0]), repeats=2)
    assert values(found) == {"objective/score": 1.0, "objective/length": 4.0, "objective/ended": 0.75}
    assert {len(measure.rows) for measure in found.values()} == {2}
    assert "objective/score" not in of_samples([1], [True], None, repeats=1)


def test_labelled_answers() -> None:
    logprobs, reference = np.array([-4.0, -6.0, -9.0]), np.array([-5.0, -5.0, -6.0])
    found = of_labelled(logprobs, np.array([True, False, False]), reference, beta=0.5)
    assert {name: measure.total for name, measure in found.items()} == pytest.approx({
        "logps/chosen": -4.0, "logps/rejected": -7.5, "rewards/chosen": 0.5, "rewards/rejected": -1.0,
        "rewards/margins": 1.5,
    })  # fmt: skip
    assert found["rewards/margins"].of([0, 1]).total == 1.0
    assert set(of_labelled(logprobs, np.array([True, False, False]))) == {"logps/chosen", "logps/rejected"}
