"""What is allowed and probably not meant."""

from __future__ import annotations

import json

import pytest

from distft.config.load import load_recipe, shipped_recipes
from distft.launch.preflight.remarks import (
    on_environment,
    on_judges,
    on_models,
    on_numbers,
    on_rows,
    on_samples,
    on_virtual_tokens,
)
from distft.planning.plan import make_plan
from tests.unit.launch.examples import cpu_cluster, gpu_cluster


def test_ppo_from_nothing_is_said_to_be() -> None:
    policy, reward = on_models(load_recipe("ppo-tiny"))
    assert "models.policy: random weights" in policy
    assert "models.reward: random weights" in reward
    assert "its scores mean nothing" in reward
    trained = ["models.policy.path=run:runs/sft-tiny", "models.reward.path=run:runs/reward-tiny"]
    assert list(on_models(load_recipe("ppo-tiny", trained))) == []
    assert [said.split(":")[0] for said in on_models(load_recipe("ppo-tiny", trained[:1]))] == ["models.reward"]


def test_a_further_reward_model_from_nothing_is_said_to_be() -> None:
    trained = ["models.policy.path=run:runs/sft-tiny", "models.reward.path=run:runs/reward-tiny"]
    init = load_recipe("ppo-tiny").model_dump()["models"]["reward"]["init"]
    (said,) = on_models(load_recipe("ppo-tiny", [*trained, f"models.rewards.kind.init={json.dumps(init)}"]))
    assert said.startswith(
        "models.rewards.kind: random weights (init): its scores mean nothing; the real thing: models.re"
    )


FROM_NOTHING = (
    "ppo-tiny", "ppo-ptx-tiny", "cpo-tiny", "dpo-tiny", "grpo-tiny", "kto-tiny", "online-dpo-tiny", "raft-tiny",
    "simpo-tiny", "t5-ppo-tiny", "tools-tiny",
)  # fmt: skip


@pytest.mark.parametrize("name", [name for name, _ in shipped_recipes() if name not in FROM_NOTHING])
def test_other_shipped_recipes_are_as_they_are_meant(name: str) -> None:
    assert list(on_models(load_recipe(name))) == []


@pytest.mark.parametrize("name", [name for name, _ in shipped_recipes()])
def test_shipped_recipes_keep_to_what_is_usual(name: str) -> None:
    assert list(on_numbers(load_recipe(name))) == []


SERVER = ["rollout.environment.name=null", "rollout.environment.http={url: 'http://host/'}"]


def test_a_turn_of_all_samples_fits_a_calls_deadline_or_it_is_said() -> None:
    """32 prompts, 8 samples each: 256 steps of at most 30 s in 540 s of 600, so 18 rounds of 15."""
    assert list(on_environment(load_recipe("tools-tiny"))) == [], "the calculator is quick"
    (said,) = on_environment(load_recipe("tools-tiny", SERVER))
    assert said == (
        "rollout.environment: 256 samples are asked 4 at a time; past an average of 8.4 s a step (its step_deadline_s: "
        "30 s) the call may count as hung, by recovery.deadline_floor_s (600 s): where steps are that slow, "
        "rollout.environment.http.connections=15 or recovery.deadline_floor_s=2134"
    )
    for enough in said.rpartition("slow, ")[2].split(" or "):
        assert list(on_environment(load_recipe("tools-tiny", [*SERVER, enough]))) == []
    for short in ("rollout.environment.http.connections=14", "recovery.deadline_floor_s=2133"):
        assert len(list(on_environment(load_recipe("tools-tiny", [*SERVER, short])))) == 1


def test_samples_that_nobody_learns_from_are_said() -> None:
    four = "rollout.samples_per_prompt=4"
    assert list(on_samples(load_recipe("sft-tiny", [four]))) == [
        "rollout.samples_per_prompt: sft learns from the rows' own answers and samples none; it counts in distft eval "
        "alone"
    ]
    for name, more in (("sft-tiny", []), ("grpo-tiny", [four]), ("ppo-tiny", [four])):
        assert list(on_samples(load_recipe(name, more))) == []


def test_a_judge_has_time_for_an_iterations_questions_or_it_is_said() -> None:
    """64 prompts, 8 answers each: 64 x 28 pairs in both orders, in 240 s; of 3 s 80 after the other, so 45 at once."""
    reward = "models.reward={judges: [{name: j, url: 'http://host/v1', model: m}]}"
    judge = [reward, "evaluation.max_samples=64"]
    (said,) = on_judges(load_recipe("online-dpo-tiny", judge))
    assert said == (
        "models.reward.judges.0: an iteration has up to 3584 questions for it, 8 at a time; past an average of 0.54 s "
        "an answer its deadline (240 s) ends the run: models.reward.judges.0.connections=45, where the endpoint takes "
        "so many at once, or models.reward.judges.0.asks=ratings"
    )
    assert list(on_judges(load_recipe("online-dpo-tiny", [*judge, "models.reward.judges.0.connections=45"]))) == []
    assert len(list(on_judges(load_recipe("online-dpo-tiny", [*judge, "models.reward.judges.0.connections=44"])))) == 1
    assert list(on_judges(load_recipe("online-dpo-tiny", [*judge, "models.reward.judges.0.asks=ratings"]))) == []


def test_a_judge_has_time_for_an_evaluations_questions_or_it_is_said() -> None:
    """All rows are asked about in one call: 256 prompts, 4 answers each, are 256 x 6 pairs in both orders."""
    judge = "models.reward={judges: [{name: j, url: 'http://host/v1', model: m}]}"
    few = [judge, "rollout.samples_per_prompt=4", "models.reward.judges.0.connections=10"]
    (said,) = on_judges(load_recipe("online-dpo-tiny", few))
    assert said.startswith(
        "models.reward.judges.0: an evaluation (max_samples: 256) has up to 3072 questions for it, 10 at a time; past "
        "an average of 0.78 s an answer its deadline (240 s) ends the run: models.reward.judges.0.connections=39, "
    )
    assert list(on_judges(load_recipe("online-dpo-tiny", [*few, "models.reward.judges.0.connections=39"]))) == []
    no_rows = ["data.eval=[]", "data.test=[]", "evaluation.every=0"]
    assert list(on_judges(load_recipe("online-dpo-tiny", [*few, *no_rows]))) == []
    assert len(list(on_judges(load_recipe("online-dpo-tiny", [*few, *no_rows, "data.holdout=0.05"])))) == 1


def test_a_class_is_asked_one_after_the_other() -> None:
    mine = "rollout.environment.name=mine:Mine"
    (said,) = on_environment(load_recipe("tools-tiny", [mine]))
    assert "256 samples are asked 1 at a time; past an average of 2.1 s a step" in said
    assert said.endswith("slow, recovery.deadline_floor_s=8534"), "it has no connections"
    assert list(on_environment(load_recipe("tools-tiny", [mine, "recovery.deadline_floor_s=8534"]))) == []
    assert list(on_environment(load_recipe("tools-tiny", [mine, "rollout.environment.step_deadline_s=2"]))) == []


def test_what_no_number_of_connections_mends_is_not_said_to_be() -> None:
    for numbers in (["rollout.environment.step_deadline_s=590"], ["train.global_batch_size=4096"]):
        (said,) = on_environment(load_recipe("tools-tiny", [*SERVER, *numbers]))
        assert "connections" not in said
        assert "recovery.deadline_floor_s=" in said


@pytest.mark.parametrize("method", ["dpo", "online-dpo"])
def test_numbers_beyond_what_the_literature_recommends(method: str) -> None:
    recipe = load_recipe(f"{method}-tiny", ["algorithm.beta=0.05", "models.policy.peft={r: 128, alpha: 256}"])
    assert list(on_numbers(recipe)) == [
        "algorithm.beta: 0.05, where 0.1 to 0.5 is usual",
        "models.policy.peft.r: 128, where 8 to 64 is usual",
    ]
    for within in (["algorithm.beta=0.1", "models.policy.peft.r=8"], ["algorithm.beta=0.5", "models.policy.peft.r=64"]):
        assert list(on_numbers(load_recipe(f"{method}-tiny", within))) == []


def test_a_rate_that_is_another_rules() -> None:
    """Adafactor's is a share of the weights' own size: with AdamW's hardly anything moves."""
    keys = ["optimizer.name=adafactor", "optimizer.learning_rate=1e-5", "models.value.optimizer.name=lion",
            "models.value.optimizer.learning_rate=1e-3"]  # fmt: skip
    assert list(on_numbers(load_recipe("ppo-tiny", [*keys, "models.policy.engine.zero_stage=0"]))) == [
        "optimizer.learning_rate: 1e-05, where 0.001 to 0.01 is usual",
        "models.value.optimizer.learning_rate: 0.001, where 1e-07 to 0.0003 is usual",
    ]
    within = [*keys, "models.policy.engine.zero_stage=0", "optimizer.learning_rate=1e-3",
              "models.value.optimizer.learning_rate=1e-4"]  # fmt: skip
    assert list(on_numbers(load_recipe("ppo-tiny", within))) == []


def test_virtual_tokens_before_a_small_model() -> None:
    small = load_recipe("sft-tiny", ["models.policy.peft.method=prompt"])
    (said,) = on_virtual_tokens(small, make_plan(small, cpu_cluster()))
    assert said.startswith("models.policy.peft: virtual tokens before a model of 0.9 M parameters: they come close")
    large = load_recipe("llama3-dpo", ["models.policy.peft.method=prompt"])
    assert list(on_virtual_tokens(large, make_plan(large, gpu_cluster()))) == []
    other = load_recipe("sft-tiny", ["models.policy.peft.method=lora"])
    assert list(on_virtual_tokens(other, make_plan(other, cpu_cluster()))) == []


def test_few_rows() -> None:
    recipe = load_recipe("dpo-tiny", ["train.global_batch_size=64"])
    assert list(on_rows(recipe, {"train": 3, "eval": 2, "test": 0})) == [
        "data.train: only 3 pairs where one batch has 64 (train.global_batch_size)",
        "data.eval: only 2 pairs to judge by: what is measured is mostly chance",
    ]
    assert list(on_rows(recipe, {"train": 64, "eval": 8, "test": 0})) == []
    (said,) = on_rows(recipe, {"train": 64, "eval": 8, "test": 1})
    assert said.startswith("data.test: only 1 pair to judge by")
