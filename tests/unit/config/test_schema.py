"""The schema takes what recipes may say, refuses what they may not, and names every key."""

from __future__ import annotations

from importlib import import_module
from inspect import getmembers, isclass
from pkgutil import iter_modules
from types import ModuleType
from typing import Any, get_args

import jsonschema
import pytest
import yaml

from distft.config import adapters, optimizers
from distft.config.adapters.kinds import ADAPTER_KINDS, ADAPTERS
from distft.config.adapters.lora import Lora
from distft.config.find_method import built_in_kinds, method_of
from distft.config.kinds import Kinds
from distft.config.load import load_recipe, recipe_file, resolved_yaml, shipped_pipelines, shipped_recipes
from distft.config.optimizers.adamw import AdamW
from distft.config.optimizers.kinds import OPTIMIZER_KINDS, OPTIMIZERS
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


@pytest.mark.parametrize(("kinds", "package"), [(ADAPTER_KINDS, adapters), (OPTIMIZER_KINDS, optimizers)])
def test_every_kind_that_is_written_can_be_named(kinds: Kinds[Any], package: ModuleType) -> None:
    written = {
        found
        for module in iter_modules(package.__path__)
        for _, found in getmembers(import_module(f"{package.__name__}.{module.name}"), isclass)
        if issubclass(found, kinds.base) and found is not kinds.base and kinds.key in found.__annotations__
    }
    assert set(kinds.classes) == written
    assert len(kinds.by_name) == len(kinds.classes)
    said = [get_args(section.model_fields[kinds.key].annotation) for section in kinds.by_name.values()]
    assert said == [(name,) for name in kinds.by_name]


def test_a_section_that_does_not_say_its_kind_is_of_the_first() -> None:
    assert (next(iter(ADAPTERS)), next(iter(OPTIMIZERS))) == ("lora", "adamw")
    assert Lora.model_fields["method"].default == "lora"
    assert AdamW.model_fields["name"].default == "adamw"
    assert (ADAPTER_KINDS.meant({}), OPTIMIZER_KINDS.meant({"eps": 1e-6})) == ("lora", "adamw")


def test_an_optimizer_has_the_keys_of_its_own_rule() -> None:
    recipe = shipped("ppo-tiny")
    assert wrong({**recipe, "optimizer": {"name": "lion", "betas": [0.9, 0.98]}}) == []
    assert wrong({**recipe, "optimizer": {"name": "lion", "eps": 1e-6}})
