"""Scores compared within a prompt's group, by hand."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from distft.batches import Array, Batch, Column, Ragged
from distft.experience.credit.group import EPSILON, group, shaped_scores


@dataclass
class Keys:
    scale_rewards: bool = True
    missing_eos_penalty: float | None = None
    overlong_after: int | None = None
    overlong_buffer: int | None = None
    importance_cap: float | None = None


def rollout(**columns: Column) -> Batch:
    """Two prompts answered three times; the samples of a prompt do not lie together."""
    lengths = [2, 1, 3, 1, 2, 1]
    tokens = Ragged.split(np.arange(10, dtype=np.int32), lengths)
    logprobs = Ragged.split(np.linspace(-2, -1, 10, dtype=np.float32), lengths)
    return Batch(
        {
            "sample": np.arange(6),
            "group": np.array([7, 3, 7, 3, 7, 3]),
            "response_ids": tokens,
            "old_logprobs": logprobs,
            "sampled_logprobs": logprobs,
            "ref_logprobs": Ragged.split(logprobs.values - np.float32(0.5), lengths),
            "score": np.array([1.0, 0.1, 2.0, 0.1, 6.0, 0.1], np.float32),
            "ended": np.array([1, 1, 1, 0, 0, 1], np.uint8),
            **columns,
        }
    )


def values_of(column: Column) -> Array:
    assert isinstance(column, Ragged)
    return column.values


def test_advantages_by_hand() -> None:
    """Scores 1, 2, 6: mean 3, unbiased deviation sqrt(7). The other group's are equal: 0, though 0.1 + 0.1 + 0.1 over 3
    is not 0.1."""
    assigned = group(rollout(), Keys(), {})
    deviation = 7**0.5 + EPSILON
    one, two, three = (-2 / deviation, -1 / deviation, 3 / deviation)
    np.testing.assert_allclose(
        values_of(assigned.columns["advantages"]), [one, one, 0, two, two, two, 0, three, three, 0], rtol=1e-6
    )
    expected = {"reward": 9.3 / 6, "reward_std": (26.615 / 5) ** 0.5, "frac_reward_zero_std": 0.5}
    ends = {"mean_length": 10 / 6, "min_length": 1.0, "max_length": 3.0, "clipped_ratio": 1 / 3}
    expected |= {f"completions/{name}": value for name, value in ends.items()}
    assert assigned.metrics == pytest.approx(expected)
    assert assigned.columns.keys() == {"advantages", "ref_logprobs"}
    assert assigned.state == {}


def test_without_scaling_it_is_the_distance_from_the_mean() -> None:
    assigned = group(rollout(), Keys(scale_rewards=False), {})
    assert values_of(assigned.columns["advantages"]).tolist() == [-2, -2, 0, -1, -1, -1, 0, 3, 3, 0]


def test_a_missing_end_is_paid_for() -> None:
    """Scores 1, 2, 6 - 3 and 0.1, 0.1 - 3, 0.1."""
    assigned = group(rollout(), Keys(scale_rewards=False, missing_eos_penalty=3.0), {})
    np.testing.assert_allclose(values_of(assigned.columns["advantages"]), [-1, -1, 1, 0, 0, 0, -2, 1, 1, 1], atol=1e-6)


def test_long_answers_lose_up_to_a_point() -> None:
    """2, 3 and 2 tokens lose 1/4, 2/4 and 1/4 of a point; one of 1 token nothing, one of 9 a whole one."""
    keys = Keys(scale_rewards=False, overlong_after=1, overlong_buffer=4)
    scores = shaped_scores(rollout(), keys)
    np.testing.assert_allclose(scores, [0.75, 0.1, 1.5, 0.1, 5.75, 0.1], rtol=1e-6)
    longer = Ragged.split(np.arange(17, dtype=np.int32), [9, 1, 3, 1, 2, 1])
    assert shaped_scores(rollout(response_ids=longer), keys)[0] == 0.0


def test_the_kl_of_the_loss_needs_the_references_log_probs() -> None:
    columns = group(rollout(), Keys(), {}).columns
    assert values_of(columns["ref_logprobs"])[0] == pytest.approx(-2.5)
    alone = Batch({name: column for name, column in rollout().columns.items() if name != "ref_logprobs"})
    assert "ref_logprobs" not in group(alone, Keys(), {}).columns


def test_one_answer_alone_teaches_nothing() -> None:
    alone = rollout(group=np.arange(6))
    assert not values_of(group(alone, Keys(), {}).columns["advantages"]).any()


def test_observations_are_worth_nothing() -> None:
    mask = Ragged.split(np.array([1, 0, 1, 1, 1, 1, 1, 1, 1, 1], np.uint8), [2, 1, 3, 1, 2, 1])
    assigned = group(rollout(response_mask=mask), Keys(scale_rewards=False), {})
    assert values_of(assigned.columns["advantages"])[:2].tolist() == [-2, 0]


def test_an_observation_in_the_middle_is_no_part_of_a_response() -> None:
    """The third response has 3 tokens, of which the second is an observation: it is 2 long, and none too long."""
    mask = Ragged.split(np.array([1, 1, 1, 1, 0, 1, 1, 1, 1, 1], np.uint8), [2, 1, 3, 1, 2, 1])
    masked = rollout(response_mask=mask)
    assigned = group(masked, Keys(scale_rewards=False), {})
    assert values_of(assigned.columns["advantages"]).tolist() == [-2, -2, 0, -1, 0, -1, 0, 3, 3, 0]
    assert assigned.metrics["completions/max_length"] == 2.0
    assert assigned.metrics["completions/mean_length"] == 9 / 6
    scores = masked.dense("score").tolist()
    assert shaped_scores(masked, Keys(overlong_after=2, overlong_buffer=1)).tolist() == scores
    assert shaped_scores(rollout(), Keys(overlong_after=2, overlong_buffer=1)).tolist()[2] == scores[2] - 1
