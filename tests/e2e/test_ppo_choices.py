"""One PPO run with much that a recipe can choose and the plain one does not (see ``ppo_choices``)."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoTokenizer

from tests.harness.corpus import PAIRS
from tests.harness.matrix import Layouts
from tests.harness.plain import scalar, units_of
from tests.harness.recipes import PPO, PPO_SAMPLES, RATE, VALUE_RATE, ppo_choices
from tests.reference.ppo_reference import scalars

pytest_plugins = ["tests.harness.fixtures"]
pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]


@torch.no_grad()
def test_scores_are_those_of_the_text_in_the_reward_models_tokens(layouts: Layouts) -> None:
    """Whole, however long it is in them, and without an end where the response was cut."""
    outcome = layouts.alone()["ppo-choices"]
    assert outcome.error == ""
    recipe, reward = ppo_choices(layouts.starts), scalar(layouts.starts.byte_reward)
    policys, its = (AutoTokenizer.from_pretrained(path) for path in (layouts.starts.policy, layouts.starts.byte_reward))
    longest = 0
    for units, rollout, metrics in zip(units_of(recipe), outcome.rollouts, outcome.metrics, strict=True):
        scores = []
        for number, response in enumerate(rollout):
            prompt = PAIRS[units[number // PPO_SAMPLES]]["prompt"]
            ended = response[-1] == policys.eos_token_id
            text = prompt + policys.decode(response, skip_special_tokens=True)
            ids = its(text)["input_ids"] + [its.eos_token_id] * ended
            scores.append(float(scalars(reward, ids)[-1]))
            longest = max(longest, len(ids))
        assert metrics["objective/scores"] == pytest.approx(sum(scores) / len(scores), rel=1e-4, abs=1e-5)
    assert longest > recipe["train"]["max_tokens_per_rank"]


def test_while_the_policy_is_held_nothing_of_it_moves(layouts: Layouts) -> None:
    first, second = layouts.alone()["ppo-choices"].metrics
    assert "loss/policy_avg" not in first
    assert "loss/policy_avg" in second
    assert second["kl_coef"] == first["kl_coef"] == PPO["kl_coef"]  # nobody steers a KL that nobody changes
    assert second["objective/kl"] == pytest.approx(0, abs=1e-4)
    warmup = PPO["epochs"] * PPO["minibatches"]
    rising = sum(range(warmup)) / warmup / warmup  # the mean of 0, 1/n, 2/n ... of the learning rate
    assert second["learning_rate"] == pytest.approx(RATE * rising)
    assert first["value/learning_rate"] == pytest.approx(VALUE_RATE * rising)
    assert second["value/learning_rate"] == pytest.approx(VALUE_RATE)
