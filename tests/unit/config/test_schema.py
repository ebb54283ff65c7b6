"""The schema takes what recipes may say, refuses what they may not, and names every key."""

from __future__ import annotations

from typing import Any, get_args

import jsonschema
import pytest
import yaml

from distft.config.find_method import built_in_kinds, method_of
from distft.config.load import load_recipe, recipe_file, resolved_yaml, shipped_pipelines, shipped_recipes
from distft.config.models import ADAPTERS, DEFAULT_METHOD, METHOD_IS, AnyAdapter
from distft.config.optimizers.kinds import DEFAULT_NAME, NAME_IS, OPTIMIZERS, AnyOptimizer
from distft.config.schema import recipe_keys, recipe_schema

SHIPPED = [name for name, _ in shipped_recipes()]
CHECK = jsonschema.Draft202012Validator(recipe_schema())


def shipped(name: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(recipe_file(name).read_text())
    return found


def wrong(recipe: dict[str, Any]) -> list[str]:
    return [error.message for error in CHECK.iter_errors(recipe)]


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_recipes_are_right_as_written_and_resolved(name: str) -> None:
    assert wrong(shipped(name)) == []
    assert wrong(yaml.safe_load(resolved_yaml(load_recipe(name)))) == []


@pytest.mark.parametrize(
    ("at", "value"),
    [
        ("algorithm", {"kind": "dpo", "bta": 0.1}),
        ("algorithm", {"kind": "dop"}),
        ("algorithm", {"kind": "dpo", "beta": 0}),
        ("train", {"stepz": 3}),
        ("seed", "one"),
        ("sede", 1),
    ],
)
def test_what_is_wrong_is_refused(at: str, value: Any) -> None:
    assert wrong({**shipped("dpo-tiny"), at: value})


@pytest.mark.parametrize("name", [name for name, _ in shipped_pipelines()])
def test_shipped_pipelines_are_right(name: str) -> None:
    assert wrong(shipped(name)) == []


@pytest.mark.parametrize("stage", [{}, {"eval": []}, {"eval": ["stage:sft"], "limt": 3}, {"recipe": 3}])
def test_a_wrong_stage_is_refused(stage: dict[str, Any]) -> None:
    pipeline = shipped("quickstart")
    right = {**pipeline["stages"], "judged": {"eval": ["stage:sft"], "limit": 3}}
    assert wrong({**pipeline, "stages": right}) == []
    assert wrong({**pipeline, "stages": {**right, "judged": stage}})


def test_a_method_from_outside_may_have_any_key() -> None:
    recipe = {**shipped("dpo-tiny"), "algorithm": {"kind": "./mine.py:Mine", "my_own": 0.5}}
    assert wrong(recipe) == []
    assert wrong({**recipe, "seed": "one"})


def test_every_key_is_told_once_with_its_words() -> None:
    keys = {key.name: key for key in recipe_keys()}
    assert len(keys) == len(list(recipe_keys()))
    assert all(key.description and key.type for key in keys.values())
    assert keys["train.global_batch_size"].type == "whole number >= 1"
    assert keys["train.global_batch_size"].default == "64"
    assert keys["data.train.0"].type == "as models.policy.init.tokenizer.train_on.0"
    assert keys["name"].default == ""
    assert keys["stages.NAME (eval).limit"].type == "whole number >= 2 | null"
    assert keys["common.NAME"].type == "those of recipes"
    for kind in built_in_kinds():
        told = {name.rpartition(".")[2] for name in keys if name.startswith(f"algorithm ({kind}).")}
        assert told == set(method_of(kind).model_fields) - {"kind"}


def test_the_adapters_by_their_methods_are_those_that_a_model_takes() -> None:
    union, *_ = get_args(AnyAdapter)
    taken = {tag.tag: adapter for adapter, tag in map(get_args, get_args(union))}
    assert taken == {f"{METHOD_IS}{method}": adapter for method, adapter in ADAPTERS.items()}
    said = [get_args(adapter.model_fields["method"].annotation) for adapter in ADAPTERS.values()]
    assert said == [(method,) for method in ADAPTERS]
    assert DEFAULT_METHOD == "lora"


def test_the_optimizers_by_their_names_are_those_that_a_recipe_takes() -> None:
    union, *_ = get_args(AnyOptimizer)
    taken = {tag.tag: optimizer for optimizer, tag in map(get_args, get_args(union))}
    assert taken == {f"{NAME_IS}{name}": optimizer for name, optimizer in OPTIMIZERS.items()}
    said = [get_args(optimizer.model_fields["name"].annotation) for optimizer in OPTIMIZERS.values()]
    assert said == [(name,) for name in OPTIMIZERS]
    assert DEFAULT_NAME == "adamw"


def test_an_optimizer_has_the_keys_of_its_own_rule() -> None:
    recipe = shipped("ppo-tiny")
    assert wrong({**recipe, "optimizer": {"name": "lion", "betas": [0.9, 0.98]}}) == []
    assert wrong({**recipe, "optimizer": {"name": "lion", "eps": 1e-6}})
