"""Facts that follow from a recipe."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from distft.common.errors import UserError
from distft.config import roles as facts
from distft.config.load import load_recipe
from distft.config.models import Engine, Reference
from distft.config.optimizers.adamw import AdamW
from distft.config.optimizers.lion import Lion

FUNCTIONS_ONLY = "models.reward={functions: [my:reward]}"


@pytest.mark.parametrize(
    ("kind", "all_roles", "trained", "unit", "samples", "longest"),
    [
        ("sft", ("policy",), ("policy",), 1, 64, 512),
        ("reward", ("reward",), ("reward",), 2, 128, 512),
        ("dpo", ("policy", "reference"), ("policy",), 2, 128, 512),
        ("ppo", ("policy", "reference", "reward", "value"), ("policy", "value"), 1, 64, 384),
    ],
)
def test_roles_and_units(
    recipes: Callable[[str], str],
    kind: str,
    all_roles: tuple[str, ...],
    trained: tuple[str, ...],
    unit: int,
    samples: int,
    longest: int,
) -> None:
    recipe = load_recipe(recipes(kind), [])
    assert facts.roles(recipe) == all_roles
    assert facts.trained_roles(recipe) == trained
    assert facts.main_role(recipe) == trained[0]
    assert facts.unit_size(recipe) == unit
    assert facts.samples_per_step(recipe) == samples
    assert facts.longest_sequence(recipe) == longest
    assert facts.is_rl(recipe) == (kind == "ppo")


def test_further_reward_models_are_roles_behind_the_first(recipes: Callable[[str], str]) -> None:
    further = ["models.rewards={harmless: {path: some/other, label: nothate, weight: 0.5}, brief: {path: some/third}}"]
    recipe = load_recipe(recipes("ppo"), [*further, "placement.rewards.brief.with=reward"])
    named = ("rewards.harmless", "rewards.brief")
    assert facts.roles(recipe) == ("policy", "reference", "reward", *named, "value")
    assert facts.model_of(recipe, "rewards.harmless").path == "some/other"
    assert facts.model_of(recipe, "value").path == "some/reward"
    assert recipe.placement.of("rewards.brief").with_ == "reward"
    [scoring] = [phase for phase in facts.phases(recipe) if any(work.role == "reward" for work in phase.works)]
    assert [work.does for work in scoring.works if work.role in named] == ["forward", "forward"]
    assert facts.resolved(recipe).models.rewards == recipe.models.rewards
    alone = load_recipe(recipes("ppo"), [*further, FUNCTIONS_ONLY])
    assert facts.roles(alone) == ("policy", "reference", *named, "value")


def test_functions_alone_need_no_reward_group(recipes: Callable[[str], str]) -> None:
    recipe = load_recipe(recipes("ppo"), [FUNCTIONS_ONLY])
    assert facts.roles(recipe) == ("policy", "reference", "value")
    assert facts.reward_functions(recipe) == ("my:reward",)
    assert facts.reward_servers(recipe) == {}
    assert facts.model_of(recipe, "value").path == "some/policy"
    with pytest.raises(KeyError):
        facts.model_of(recipe, "reward")


def test_reference_is_the_policys_start_with_its_settings(recipes: Callable[[str], str]) -> None:
    overrides = ["models.policy.gradient_checkpointing=true", "models.policy.engine.offload_optimizer=cpu",
                 "models.policy.trust_remote_code=true", "models.policy.optimizer.eps=1e-6"]  # fmt: skip
    reference = facts.model_of(load_recipe(recipes("ppo"), overrides), "reference")
    assert isinstance(reference, Reference)
    assert not reference.differs
    assert (reference.path, reference.init, reference.dtype) == ("some/policy", None, "float32")
    assert reference.trust_remote_code
    assert not reference.gradient_checkpointing
    assert reference.engine.offload_optimizer == "none"
    assert reference.optimizer is None


def test_a_path_of_its_own_does_not_inherit_init_or_trust(recipes: Callable[[str], str]) -> None:
    value = facts.model_of(load_recipe(recipes("ppo"), ["models.value.path=my/value",
                                                       "models.policy.trust_remote_code=true"]), "value")  # fmt: skip
    assert (value.path, value.init, value.trust_remote_code) == ("my/value", None, False)
    init = "{hidden_size: 32, num_layers: 1, num_heads: 2, vocab_size: 300}"
    overrides = [f"models.policy.init={init}", "models.reference={path: a/b, differs: true}"]
    reference = facts.model_of(load_recipe(recipes("ppo"), overrides), "reference")
    assert (reference.path, reference.init) == ("a/b", None)


def test_value_starts_from_the_reward_model_with_the_policys_settings(recipes: Callable[[str], str]) -> None:
    overrides = ["models.reward.dtype=bfloat16", "models.value.engine.persistence_threshold=0",
                 "models.policy.engine.reduce_bucket_size=1000"]  # fmt: skip
    value = facts.model_of(load_recipe(recipes("ppo"), overrides), "value")
    assert (value.path, value.dtype) == ("some/reward", "float32")
    assert (value.engine.persistence_threshold, value.engine.reduce_bucket_size) == (0, 1000)


def test_what_is_inherited_fits_the_roles_own_stage(recipes: Callable[[str], str]) -> None:
    overrides = ["models.policy.engine={offload_parameters: cpu, offload_optimizer: cpu}",
                 "models.value.engine.zero_stage=0", "models.reference.engine.zero_stage=0"]  # fmt: skip
    recipe = load_recipe(recipes("ppo"), overrides)
    for role in ("reference", "value"):
        engine = facts.model_of(recipe, role).engine
        assert (engine.zero_stage, engine.offload_parameters, engine.offload_optimizer) == (0, "none", "none")


def test_a_roles_optimizer_adds_to_the_recipes(recipes: Callable[[str], str]) -> None:
    overrides = ["optimizer={learning_rate: 1e-5, weight_decay: 0.1}", "models.value.optimizer.learning_rate=1e-4"]
    recipe = load_recipe(recipes("ppo"), overrides)
    assert facts.optimizer_of(recipe, "policy") == recipe.optimizer
    value = facts.optimizer_of(recipe, "value")
    assert (value.learning_rate, value.weight_decay) == (1e-4, 0.1)
    with pytest.raises(KeyError):
        facts.optimizer_of(recipe, "reward")


def test_a_roles_optimizer_of_another_rule_takes_what_every_rule_has(recipes: Callable[[str], str]) -> None:
    """And one that names no rule is of the recipe's, with that one's keys."""
    lion = ["optimizer={name: lion, learning_rate: 1e-5, weight_decay: 0.1, betas: [0.8, 0.98]}"]
    other = load_recipe(recipes("ppo"), [*lion, "models.value.optimizer={name: adamw, eps: 1e-6, warmup_steps: 2}"])
    value = facts.optimizer_of(other, "value")
    assert isinstance(value, AdamW)
    assert (value.learning_rate, value.weight_decay, value.eps, value.warmup_steps) == (1e-5, 0.1, 1e-6, 2)
    assert value.betas == (0.9, 0.999)
    same = facts.optimizer_of(load_recipe(recipes("ppo"), [*lion, "models.value.optimizer.weight_decay=0.2"]), "value")
    assert isinstance(same, Lion)
    assert (same.learning_rate, same.weight_decay, same.betas) == (1e-5, 0.2, (0.8, 0.98))


def test_sizes_that_follow(recipes: Callable[[str], str]) -> None:
    init = facts.model_of(load_recipe(recipes("sft"), []), "policy").init
    assert init is not None
    assert (init.feed_forward_size, init.key_value_heads) == (256, 4)
    given = init.model_copy(update={"intermediate_size": 100, "num_kv_heads": 2})
    assert (given.feed_forward_size, given.key_value_heads) == (100, 2)


def test_one_rank_is_spared_what_sharding_costs() -> None:
    assert Engine().on(1).zero_stage == 0
    assert Engine().on(2) == Engine()
    for offload in (Engine(offload_parameters="cpu"), Engine(offload_optimizer="cpu")):
        assert offload.on(1) == offload


def test_a_text_whose_spans_are_taken_out_is_longer_than_it_was() -> None:
    """Of 96 tokens 14 in 5 spans: 82 + 5 sentinels + the end are read, 14 + 5 + 1 are learned. The keys know."""
    recipe = load_recipe("span-tiny", [])
    assert (facts.longest_sides(recipe), facts.longest_sequence(recipe)) == ((88, 20), 108)
    load_recipe("span-tiny", ["train.max_tokens_per_rank=108"])
    with pytest.raises(UserError, match="does not hold one sequence of 108 tokens"):
        load_recipe("span-tiny", ["train.max_tokens_per_rank=107"])
    with pytest.raises(UserError, match="max_prompt_length.*has no effect"):
        load_recipe("span-tiny", ["data.max_prompt_length=48"])
