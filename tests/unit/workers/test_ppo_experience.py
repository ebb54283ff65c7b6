"""A rollout batch to advantages, by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from distft.batches import Batch, Column, Ragged
from distft.config.algorithms import Ppo
from distft.workers.ppo_experience import build_ppo_columns


def settings(**changes: Any) -> dict[str, Any]:
    keys = Ppo(kind="ppo", whiten=False).model_dump(exclude={"kind"})
    return {**keys, "kl_coef": 0.1, "score_state": {}, **changes}


def rollout(**columns: Column) -> Batch:
    """Two responses of 2 and 1 tokens; the second was cut at the limit."""
    return Batch(
        {
            "sample": np.arange(2),
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


def test_advantages_and_returns_by_hand() -> None:
    """kl = [0.5, 0], [0.5]; rewards = [-0.05, 1.0], [-1.05]; gamma 1, lam 0.5."""
    _, built = build_ppo_columns(rollout(), settings(lam=0.5))
    last = 1.0 - 0.4
    first = (-0.05 + 0.4 - 0.2) + 0.5 * last
    np.testing.assert_allclose(built.ragged("advantages").values, [first, last, -1.05 - 0.1], rtol=1e-6)
    np.testing.assert_allclose(built.ragged("returns").values, [first + 0.2, 1.0, -1.05], rtol=1e-6)
    assert built.dense("sample").tolist() == [0, 1]


def test_metrics_are_means_over_sequences() -> None:
    report, _ = build_ppo_columns(rollout(), settings())
    metrics = report["metrics"]
    assert metrics["objective/kl"] == pytest.approx(0.5)
    assert metrics["objective/scores"] == pytest.approx(0.0)
    assert metrics["objective/non_score_reward"] == pytest.approx(-0.05)
    assert metrics["objective/rlhf_reward"] == pytest.approx(-0.05)
    assert metrics["objective/entropy"] == pytest.approx((3.0 + 0.5) / 2)
    assert metrics["objective/token_entropy"] == pytest.approx(2.0)
    assert metrics["val/num_eos_tokens"] == 1
    assert metrics["rollout/trainer_logprob_difference_max"] == pytest.approx(0.25)
    assert metrics["rollout/trainer_logprob_difference_mean"] == pytest.approx(0.25 / 3)
    assert metrics["rollout/trainer_logprob_difference_q999"] == pytest.approx(0.25, rel=0.01)
    assert report["trainer_difference"].max == pytest.approx(0.25)
    assert report["reference_difference"].mean == pytest.approx(1 / 3)


def test_missing_eos_is_paid_for_by_the_cut_response_alone() -> None:
    _, plain = build_ppo_columns(rollout(), settings())
    _, fined = build_ppo_columns(rollout(), settings(missing_eos_penalty=2.0))
    difference = fined.ragged("returns").values - plain.ragged("returns").values
    np.testing.assert_allclose(difference, [0, 0, -2.0], atol=1e-6)


def test_bootstrap_takes_the_value_behind_the_cut() -> None:
    cut = rollout(bootstrap_values=np.array([np.nan, 0.7], np.float32))
    _, built = build_ppo_columns(cut, settings(truncated="bootstrap"))
    np.testing.assert_allclose(built.ragged("returns").values[2], 0.7 - 0.05, rtol=1e-6)


def test_whitening_is_over_all_tokens_of_the_batch() -> None:
    _, built = build_ppo_columns(rollout(), settings(whiten=True))
    values = built.ragged("advantages").values
    assert values.mean() == pytest.approx(0.0, abs=1e-6)
    assert values.std(ddof=1) == pytest.approx(1.0, abs=1e-5)


def test_the_coefficient_follows_the_kl_per_sequence() -> None:
    fixed, _ = build_ppo_columns(rollout(), settings())
    assert fixed["next_kl_coef"] == pytest.approx(0.1)
    steered, _ = build_ppo_columns(rollout(), settings(kl_target=0.25, kl_horizon=100.0))
    assert steered["next_kl_coef"] == pytest.approx(0.1 * (1 + 0.2 * 2 / 100))


def test_observation_tokens_carry_no_reward() -> None:
    masked = rollout(response_mask=Ragged.of([[1, 0], [1]], np.uint8))
    report, built = build_ppo_columns(masked, settings())
    assert built.ragged("advantages").values[1] == 0
    assert built.ragged("returns").values[0] == pytest.approx(-0.05 + 1.0)  # its last own token earns the score
    assert report["metrics"]["rollout/trainer_logprob_difference_max"] == 0


def test_running_normalisation_goes_on_from_its_state() -> None:
    first, _ = build_ppo_columns(rollout(), settings(score_normalize=True))
    assert first["score_state"]["count"] == 2
    second, _ = build_ppo_columns(rollout(), settings(score_normalize=True, score_state=first["score_state"]))
    assert second["score_state"]["count"] == 4


def test_importance_weights_are_the_ratio_to_the_generator_up_to_the_cap() -> None:
    """Trainer - generator: 0, 0.25 and 0 nats."""
    _, plain = build_ppo_columns(rollout(), settings())
    assert "importance_weights" not in plain
    for cap in (2.0, 1.1):
        _, built = build_ppo_columns(rollout(), settings(importance_cap=cap))
        expected = [1.0, min(np.exp(0.25), cap), 1.0]
        np.testing.assert_allclose(built.ragged("importance_weights").values, expected, rtol=1e-6)
