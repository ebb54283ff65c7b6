"""REINFORCE++ by hand: discounted returns, whitened over all tokens of the batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pytest

from distft.batches import Array, Ragged
from distft.experience.credit.whitened_returns import whitened_returns
from tests.unit.experience.credit.test_group import Keys as ScoreKeys
from tests.unit.experience.credit.test_group import rollout, values_of


@dataclass
class Keys(ScoreKeys):
    baseline: Literal["none", "group"] = "none"
    kl_coef: float = 0.0
    gamma: float = 1.0


def whitened(returns: list[float]) -> Array:
    values = np.array(returns)
    result: Array = (values - values.mean()) / values.std(ddof=1)
    return result


def test_every_token_is_worth_what_comes_after_it() -> None:
    """Scores 1, .1, 2, .1, 6, .1 at the last of 2, 1, 3, 1, 2, 1 tokens, halved with every token before."""
    assigned = whitened_returns(rollout(), Keys(gamma=0.5), {})
    expected = whitened([0.5, 1, 0.1, 0.5, 1, 2, 0.1, 3, 6, 0.1])
    np.testing.assert_allclose(values_of(assigned.columns["advantages"]), expected, rtol=1e-5)
    assert assigned.columns.keys() == {"advantages"}
    assert assigned.metrics["reward"] == pytest.approx(9.3 / 6)


def test_the_kl_is_paid_at_its_token() -> None:
    """Each token is half a nat from the reference, at a coefficient of 1."""
    assigned = whitened_returns(rollout(), Keys(kl_coef=1.0), {})
    expected = whitened([0, 0.5, -0.4, 0.5, 1, 1.5, -0.4, 5, 5.5, -0.4])
    np.testing.assert_allclose(values_of(assigned.columns["advantages"]), expected, rtol=1e-5)
    assert assigned.metrics["objective/non_score_reward"] == pytest.approx(-5 / 6)
    assert assigned.metrics["objective/rlhf_reward"] == pytest.approx(9.3 / 6 - 5 / 6)


def test_the_groups_mean_is_taken_off_and_the_kl_left_to_the_loss() -> None:
    """1, 2, 6 less 3; the other group's scores are equal."""
    assigned = whitened_returns(rollout(), Keys(baseline="group", kl_coef=1.0), {})
    expected = whitened([-2, -2, 0, -1, -1, -1, 0, 3, 3, 0])
    np.testing.assert_allclose(values_of(assigned.columns["advantages"]), expected, rtol=1e-5, atol=1e-6)
    assert assigned.columns.keys() == {"advantages", "ref_logprobs"}
    assert "objective/non_score_reward" not in assigned.metrics


def test_nothing_decays_through_observations() -> None:
    """The middle token of the third response is a tool's: the first is one step from the end, not two."""
    mask = Ragged.split(np.array([1, 1, 1, 1, 0, 1, 1, 1, 1, 1], np.uint8), [2, 1, 3, 1, 2, 1])
    found = values_of(whitened_returns(rollout(response_mask=mask), Keys(gamma=0.5), {}).columns["advantages"])
    of_tokens = whitened([0.5, 1, 0.1, 1, 2, 0.1, 3, 6, 0.1])
    np.testing.assert_allclose(found[[3, 5]], of_tokens[[3, 4]], rtol=1e-5)
    assert found[4] == 0
