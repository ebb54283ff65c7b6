"""A rollout batch to advantages, by hand."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from distft.batches import Array, Batch, Column, Ragged
from distft.config.algorithms.ppo import Ppo
from distft.experience.credit.gae import gae
from tests.harness.rollouts import rollout


def section(**changes: Any) -> Ppo:
    return Ppo(**{"kind": "ppo", "whiten": False, "kl_coef": 0.1, **changes})


def values_of(column: Column) -> Array:
    """All values of a ragged column."""
    assert isinstance(column, Ragged)
    return column.values


def test_advantages_and_returns_by_hand() -> None:
    """kl = [0.5, 0], [0.5]; rewards = [-0.05, 1.0], [-1.05]; gamma 1, lam 0.5."""
    built = gae(rollout(), section(lam=0.5), {}).columns
    last = 1.0 - 0.4
    first = (-0.05 + 0.4 - 0.2) + 0.5 * last
    np.testing.assert_allclose(values_of(built["advantages"]), [first, last, -1.05 - 0.1], rtol=1e-6)
    np.testing.assert_allclose(values_of(built["returns"]), [first + 0.2, 1.0, -1.05], rtol=1e-6)


def test_the_penalty_is_told_as_means_over_sequences() -> None:
    metrics = gae(rollout(), section(), {}).metrics
    assert metrics == {
        "objective/non_score_reward": pytest.approx(-0.05),
        "objective/rlhf_reward": pytest.approx(-0.05),
        "kl_coef": 0.1,
    }


def test_missing_eos_is_paid_for_by_the_cut_response_alone() -> None:
    plain = gae(rollout(), section(), {}).columns
    fined = gae(rollout(), section(missing_eos_penalty=2.0), {}).columns
    difference = values_of(fined["returns"]) - values_of(plain["returns"])
    np.testing.assert_allclose(difference, [0, 0, -2.0], atol=1e-6)


def test_bootstrap_takes_the_value_behind_the_cut() -> None:
    cut = rollout(bootstrap_values=np.array([np.nan, 0.7], np.float32))
    built = gae(cut, section(truncated="bootstrap"), {}).columns
    np.testing.assert_allclose(values_of(built["returns"])[2], 0.7 - 0.05, rtol=1e-6)


def test_whitening_is_over_all_tokens_of_the_batch() -> None:
    built = gae(rollout(), section(whiten=True), {}).columns
    values = values_of(built["advantages"])
    assert values.mean() == pytest.approx(0.0, abs=1e-6)
    assert values.std(ddof=1) == pytest.approx(1.0, abs=1e-5)


def test_the_coefficient_follows_the_kl_per_sequence() -> None:
    fixed = gae(rollout(), section(), {})
    assert fixed.state["kl_coef"] == 0.1
    steered = gae(rollout(), section(kl_target=0.25, kl_horizon=100), {})
    assert steered.state["kl_coef"] == pytest.approx(0.1 * (1 + 0.2 * 2 / 100))
    goes_on = gae(rollout(), section(kl_target=0.25, kl_horizon=100), steered.state)
    assert goes_on.metrics["kl_coef"] == steered.state["kl_coef"], "not the recipe's, which was its start"


def test_the_coefficient_waits_while_the_policy_is_held() -> None:
    """With the value model's warm-up nobody changes the KL, so nobody steers it."""
    steered = section(kl_target=0.25, kl_horizon=100, value_warmup_steps=1)
    first = gae(rollout(), steered, {})
    assert first.state["kl_coef"] == 0.1
    assert gae(rollout(), steered, first.state).state["kl_coef"] > 0.1


def test_observation_tokens_carry_no_reward() -> None:
    masked = rollout(response_mask=Ragged.of([[1, 0], [1]], np.uint8))
    built = gae(masked, section(), {}).columns
    assert values_of(built["advantages"])[1] == 0
    assert values_of(built["returns"])[0] == pytest.approx(-0.05 + 1.0)  # its last own token earns the score


def test_an_observation_in_the_middle_by_hand() -> None:
    """Two turns of two and one tokens, two of an observation between them, of any value: as if it were not there.

    kl = [0.5, 0, 0.25] at the policy's own; rewards = [-0.05, 0, 0.975]; gamma 0.9, lam 0.5. The last token of the
    first turn looks at the first of the next: A = [-0.05 + 0.9 * 0.4 - 0.2 + 0.45 A_1, 0 + 0.9 * 0.1 - 0.4 + 0.45 A_4,
    0.975 - 0.1].
    """
    nan = float("nan")
    columns = {
        "response_ids": [[5, 6, 90, 91, 7]], "response_mask": [[1, 1, 0, 0, 1]],
        "old_logprobs": [[-1.0, -2.0, nan, nan, -0.75]], "ref_logprobs": [[-1.5, -2.0, nan, nan, -1.0]],
        "values": [[0.2, 0.4, nan, 7.0, 0.1]], "sampled_logprobs": [[-1.0, -2.0, 0.0, 0.0, -0.75]],
    }  # fmt: skip
    kinds = {"response_ids": np.int32, "response_mask": np.uint8}
    one = Batch({
        **{name: Ragged.of(rows, kinds.get(name, np.float32)) for name, rows in columns.items()},
        "sample": np.array([0]), "score": np.array([1.0], np.float32), "ended": np.array([1], np.uint8),
    })  # fmt: skip
    assigned = gae(one, section(gamma=0.9, lam=0.5), {})
    last = 0.975 - 0.1
    second = 0.9 * 0.1 - 0.4 + 0.45 * last
    first = -0.05 + 0.9 * 0.4 - 0.2 + 0.45 * second
    np.testing.assert_allclose(values_of(assigned.columns["advantages"]), [first, second, 0, 0, last], rtol=1e-6)
    found = values_of(assigned.columns["returns"])
    np.testing.assert_allclose(found, [first + 0.2, second + 0.4, 0, 0, last + 0.1], rtol=1e-6)
    assert assigned.metrics["objective/non_score_reward"] == pytest.approx(-0.075)


def test_running_normalisation_goes_on_from_its_state() -> None:
    first = gae(rollout(), section(score_normalize=True), {})
    assert first.state["scores"]["count"] == 2
    second = gae(rollout(), section(score_normalize=True), first.state)
    assert second.state["scores"]["count"] == 4
    assert json.loads(json.dumps(second.state)) == second.state, "as the checkpoint keeps it"


def test_importance_weights_are_the_ratio_to_the_generator_up_to_the_cap() -> None:
    """Trainer - generator: 0, 0.25 and 0 nats."""
    plain = gae(rollout(), section(), {}).columns
    assert "importance_weights" not in plain
    for cap in (2.0, 1.1):
        built = gae(rollout(), section(importance_cap=cap), {}).columns
        expected = [1.0, min(np.exp(0.25), cap), 1.0]
        np.testing.assert_allclose(values_of(built["importance_weights"]), expected, rtol=1e-6)
