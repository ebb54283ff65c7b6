"""What is said of every rollout, whatever the method."""

from __future__ import annotations

import numpy as np
import pytest

from distft.batches import Ragged
from distft.config.algorithms.online_dpo import OnlineDpo
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


def test_chosen_samples_come_with_their_texts_and_new_numbers() -> None:
    """Sample 7, of score 0.5, is better than 4; the mask of what is not the policy's own goes along."""
    prompts, masks = Ragged.of([[1], [1, 2]], np.int32), Ragged.of([[1, 0], [1]], np.uint8)
    routed = Ragged.of([[[3, 0], [3, 1]], [[4, 0], [4, 1]]], np.uint8)
    scored = rollout(
        prompt_ids=prompts,
        response_mask=masks,
        routed_experts=routed,
        group=np.array([3, 3]),
        score=np.array([-1.0, 0.5], np.float32),
    )
    report, columns = judged(scored, OnlineDpo(kind="online_dpo"), {})
    assert columns.dense("sample").tolist() == [0, 1]
    assert columns.dense("unit").tolist() == [0, 0]
    assert [columns.ragged("response_ids")[row].tolist() for row in (0, 1)] == [[7], [5, 6]]
    assert [columns.ragged("prompt_ids")[row].tolist() for row in (0, 1)] == [[1, 2], [1]]
    assert [columns.ragged("response_mask")[row].tolist() for row in (0, 1)] == [[1], [1, 0]]
    assert columns.ragged("routed_experts")[0].tolist() == [[4, 0], [4, 1]]
    assert columns.ragged("ref_logprobs")[0].tolist() == [-1.0]
    assert set(columns.columns) == {
        "sample", "unit", "prompt_ids", "response_ids", "response_mask", "routed_experts", "ref_logprobs"
    }, "what is not read is not carried"  # fmt: skip
    assert report.metrics["objective/scores_margin"] == pytest.approx(1.5)


def test_observation_tokens_count_for_nothing() -> None:
    masked = rollout(response_mask=Ragged.of([[1, 0], [1]], np.uint8))
    metrics = judged(masked, PPO, {})[0].metrics
    assert metrics["rollout/trainer_logprob_difference_max"] == 0
    assert metrics["objective/token_entropy"] == pytest.approx(2.0)
