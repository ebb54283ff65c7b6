"""What is said of every rollout, whatever the method."""

from __future__ import annotations

import numpy as np
import pytest

from distft.batches import Batch, Column, Ragged
from distft.config.algorithms.ppo import Ppo
from distft.workers.judging import judged

PPO = Ppo(kind="ppo", whiten=False, kl_coef=0.1)


def rollout(**columns: Column) -> Batch:
    """Two responses of 2 and 1 tokens; the second was cut at the limit."""
    return Batch(
        {
            "sample": np.array([4, 7]),
            "response_ids": Ragged.of([[5, 6], [7]], np.int32),
            "old_logprobs": Ragged.of([[-1.0, -2.0], [-0.5]], np.float32),
            "ref_logprobs": Ragged.of([[-1.5, -2.0], [-1.0]], np.float32),
            "sampled_logprobs": Ragged.of([[-1.0, -2.25], [-0.5]], np.float32),
            "entropy": Ragged.of([[1.0, 2.0], [3.0]], np.float32),
            "values": Ragged.of([[0.2, 0.4], [0.1]], np.float32),
            "score": np.array([1.0, -1.0], np.float32),
            "ended": np.array([1, 0], np.uint8),
            **columns,
        }
    )


def test_metrics_are_means_over_sequences() -> None:
    report, columns = judged(rollout(), PPO, {})
    metrics = report["metrics"]
    assert metrics["objective/kl"] == pytest.approx(0.5)
    assert metrics["objective/scores"] == pytest.approx(0.0)
    assert metrics["objective/scores_std"] == pytest.approx(1.0)
    assert metrics["objective/entropy"] == pytest.approx((3.0 + 0.5) / 2)
    assert metrics["objective/token_entropy"] == pytest.approx(2.0)
    assert metrics["val/num_eos_tokens"] == 1
    assert metrics["rollout/trainer_logprob_difference_max"] == pytest.approx(0.25)
    assert metrics["rollout/trainer_logprob_difference_mean"] == pytest.approx(0.25 / 3)
    assert metrics["rollout/trainer_logprob_difference_q999"] == pytest.approx(0.25, rel=0.01)
    assert report["trainer_difference"].max == pytest.approx(0.25)
    assert report["reference_difference"].mean == pytest.approx(1 / 3)
    assert metrics["kl_coef"] == report["state"]["kl_coef"] == 0.1, "the method's own are beside them"
    assert columns.dense("sample").tolist() == [4, 7]
    assert {"advantages", "returns"} < columns.columns.keys()


def test_observation_tokens_count_for_nothing() -> None:
    masked = rollout(response_mask=Ragged.of([[1, 0], [1]], np.uint8))
    metrics = judged(masked, PPO, {})[0]["metrics"]
    assert metrics["rollout/trainer_logprob_difference_max"] == 0
    assert metrics["objective/token_entropy"] == pytest.approx(2.0)
