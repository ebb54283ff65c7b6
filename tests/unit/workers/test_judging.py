"""What is said of every rollout, whatever the method."""

from __future__ import annotations

import numpy as np
import pytest

from distft.batches import Ragged
from distft.config.algorithms.ppo import Ppo
from distft.workers.judging import judged
from tests.harness.rollouts import rollout

PPO = Ppo(kind="ppo", whiten=False, kl_coef=0.1)


def test_metrics_are_means_over_sequences() -> None:
    report, columns = judged(rollout(), PPO, {})
    metrics = report.metrics
    assert metrics["objective/kl"] == pytest.approx(0.5)
    assert metrics["objective/scores"] == pytest.approx(0.0)
    assert metrics["objective/scores_std"] == pytest.approx(1.0)
    assert metrics["objective/entropy"] == pytest.approx((3.0 + 0.5) / 2)
    assert metrics["objective/token_entropy"] == pytest.approx(2.0)
    assert metrics["val/num_eos_tokens"] == 1
    assert metrics["rollout/trainer_logprob_difference_max"] == pytest.approx(0.25)
    assert metrics["rollout/trainer_logprob_difference_mean"] == pytest.approx(0.25 / 3)
    assert metrics["rollout/trainer_logprob_difference_q999"] == pytest.approx(0.25, rel=0.01)
    assert report.trainer_difference.max == pytest.approx(0.25)
    assert report.reference_difference.mean == pytest.approx(1 / 3)
    assert metrics["kl_coef"] == report.state["kl_coef"] == 0.1, "the method's own are beside them"
    assert columns.dense("sample").tolist() == [4, 7]
    assert {"advantages", "returns"} < columns.columns.keys()


def test_observation_tokens_count_for_nothing() -> None:
    masked = rollout(response_mask=Ragged.of([[1, 0], [1]], np.uint8))
    metrics = judged(masked, PPO, {})[0].metrics
    assert metrics["rollout/trainer_logprob_difference_max"] == 0
    assert metrics["objective/token_entropy"] == pytest.approx(2.0)
