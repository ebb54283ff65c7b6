"""The other samples of a prompt as the baseline, by hand."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from distft.batches import Ragged
from distft.experience.credit.leave_one_out import leave_one_out
from tests.unit.experience.credit.test_group import Keys as ScoreKeys
from tests.unit.experience.credit.test_group import rollout, values_of


@dataclass
class Keys(ScoreKeys):
    kl_coef: float = 0.0


def test_advantages_by_hand() -> None:
    """1 - (2 + 6)/2, 2 - (1 + 6)/2, 6 - (1 + 2)/2; the equal group exactly 0."""
    assigned = leave_one_out(rollout(), Keys(), {})
    expected = [-3, -3, 0, -1.5, -1.5, -1.5, 0, 4.5, 4.5, 0]
    np.testing.assert_allclose(values_of(assigned.columns["advantages"]), expected, rtol=1e-6)
    assert values_of(assigned.columns["advantages"])[2] == 0
    assert assigned.metrics["kl_coef"] == 0.0
    assert assigned.metrics["frac_reward_zero_std"] == 0.5


def test_the_kl_is_part_of_the_sequences_reward() -> None:
    """Each token is 0.5 nats from the reference: rewards 1 - 1, 2 - 1.5, 6 - 1 with coefficient 1."""
    assigned = leave_one_out(rollout(), Keys(kl_coef=1.0), {})
    np.testing.assert_allclose(
        values_of(assigned.columns["advantages"])[[0, 3, 7]], [0 - 2.75, 0.5 - 2.5, 5 - 0.25], rtol=1e-5
    )
    assert assigned.metrics["kl"] == pytest.approx(0.5)
    assert assigned.metrics["objective/non_score_reward"] == pytest.approx(-5 / 6)
    scores = (1 + 2 + 6 + 0.3) / 6
    assert assigned.metrics["objective/rlhf_reward"] == pytest.approx(scores - 5 / 6)


def test_the_kl_of_an_observation_is_no_part_of_it() -> None:
    """The second of the third response's tokens is one: rewards 1 - 1, 2 - 1, 6 - 1."""
    mask = Ragged.split(np.array([1, 1, 1, 1, 0, 1, 1, 1, 1, 1], np.uint8), [2, 1, 3, 1, 2, 1])
    assigned = leave_one_out(rollout(response_mask=mask), Keys(kl_coef=1.0), {})
    found = values_of(assigned.columns["advantages"])[[0, 3, 4, 5, 7]]
    np.testing.assert_allclose(found, [0 - 3, 1 - 2.5, 0, 1 - 2.5, 5 - 0.5], rtol=1e-5)
    assert assigned.metrics["objective/non_score_reward"] == pytest.approx(-4.5 / 6)


def test_one_answer_has_no_others() -> None:
    with pytest.raises(ValueError, match="two samples"):
        leave_one_out(rollout(group=np.arange(6)), Keys(), {})
