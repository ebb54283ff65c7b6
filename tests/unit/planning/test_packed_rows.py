"""Whose samples share rows where a recipe leaves it open: texts' alone, where nothing speaks against it."""

from __future__ import annotations

from pathlib import Path

import pytest

from distft.config.cluster import load_cluster
from distft.config.load import load_recipe
from distft.launch.prepare import prepare
from distft.planning.drawing import draw
from distft.planning.footprint import SizeBook
from distft.planning.packed_rows import with_rows
from distft.planning.plan import make_plan
from tests.unit.models.families import write_family, write_own_code

LLAMA = "models.policy.path=meta-llama/Llama-3.2-1B"


def decided(name: str, *overrides: str) -> bool | None:
    recipe = with_rows(load_recipe(name, list(overrides)), SizeBook())
    assert recipe.models.policy is not None
    return recipe.models.policy.engine.packed


@pytest.mark.parametrize(("name", "overrides", "wanted"), [
    ("pretrain-tiny", [], True),
    ("pretrain-tiny", [LLAMA], True),
    ("pretrain-tiny", ["models.policy.engine.packed=false"], False),
    ("pretrain-tiny", ["models.policy.engine.sequence_parallel=2"], False),
    ("pretrain-tiny", ["models.policy.attention=eager"], False),
    ("pretrain-tiny", ["models.policy.path=nobody/knows-it"], False),
    ("sft-tiny", [], None),
    ("sft-tiny", ["models.policy.engine.packed=true"], True),
    ("mlm-tiny", [], None),
])  # fmt: skip
def test_of_a_recipe(name: str, overrides: list[str], wanted: bool | None) -> None:
    assert decided(name, *overrides) is wanted


@pytest.mark.parametrize(("name", "wanted"), [("gpt_neox", True), ("opt", False)])
def test_of_a_model_that_is_here(tmp_path: Path, name: str, *, wanted: bool) -> None:
    assert decided("pretrain-tiny", f"models.policy.path={write_family(tmp_path, name)}") is wanted


@pytest.mark.parametrize(("trusted", "wanted"), [("false", True), ("true", False)])
def test_of_a_model_with_code_of_its_own(tmp_path: Path, trusted: str, *, wanted: bool) -> None:
    trust = f"models.policy.trust_remote_code={trusted}"
    assert decided("pretrain-tiny", f"models.policy.path={write_own_code(tmp_path)}", trust) is wanted


def test_the_plan_says_it_and_the_run_does_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = load_recipe("pretrain-tiny")
    prepared = prepare(recipe, "local")
    assert prepared.recipe.models.policy is not None
    assert prepared.recipe.models.policy.engine.packed is True
    for plan in (prepared.plan, make_plan(recipe, load_cluster("slurm-cpu"))):
        assert "packed in one row" in draw(plan)
