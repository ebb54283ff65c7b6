"""What ``distft doctor --matrix`` says yes to is trained, and its result written: see ``distft.doctor.covering``."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from distft.config.find_method import built_in_kinds
from distft.config.optimizers.kinds import OPTIMIZERS
from distft.config.recipe import Recipe
from distft.config.rules import violations
from distft.doctor.covering import run_by_tests
from distft.doctor.matrix import support_matrix
from distft.doctor.support import Cell
from tests.harness.cells import STEPS, named, recipe_of, run_cells, run_recipes, save_starts
from tests.harness.jobs import Outcome

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

BY_DEFAULT = 40
AT_ONCE = 60


@pytest.fixture(scope="module")
def starts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of each family."""
    folder = tmp_path_factory.mktemp("starts")
    save_starts(folder)
    return folder


@pytest.fixture(scope="module")
def covering() -> list[Cell]:
    """Those that the matrix says are run."""
    return run_by_tests(support_matrix(built_in_kinds()).verdicts)


def assert_trained(outcomes: Mapping[str, Outcome]) -> None:
    for name, outcome in outcomes.items():
        assert outcome.error == "", name
        assert len(outcome.metrics) == STEPS, name
        assert all(math.isfinite(value) for line in outcome.metrics for value in line.values()), name
        norms = [value for line in outcome.metrics for key, value in line.items() if key.endswith("grad_norm")]
        assert max(norms) > 0, name
        assert list((outcome.folder / "weights").rglob("*.safetensors")), name


def test_the_cells_that_meet_most(covering: Sequence[Cell], starts: Path, tmp_path: Path) -> None:
    assert_trained(run_cells(covering[:BY_DEFAULT], starts, tmp_path))


@pytest.mark.slow
def test_every_pair_and_every_adapter_with_method_and_family(
    covering: Sequence[Cell], starts: Path, tmp_path: Path
) -> None:
    for first in range(BY_DEFAULT, len(covering), AT_ONCE):
        assert_trained(run_cells(covering[first : first + AT_ONCE], starts, tmp_path / str(first)))


@pytest.mark.slow
def test_every_optimizer_with_every_adapter(starts: Path, tmp_path: Path) -> None:
    """Over whole weights and four bits, sharded or not, where the checks of a run let them: an optimizer is no axis of
    the matrix, for its rules look at nothing else."""
    recipes = {
        f"{name}-{named(cell)}": {**recipe_of(cell, starts), "optimizer": {"name": name, "learning_rate": 1e-3}}
        for cell, verdict in support_matrix(built_in_kinds()).verdicts.items()
        if (cell.method, cell.family, cell.engine) == ("sft", "decoder", "hf")
        and cell.zero_stage != "1"
        and not verdict.refusals
        for name in OPTIMIZERS
    }
    allowed = [name for name, recipe in recipes.items() if not violations(Recipe.model_validate(recipe))]
    assert len(allowed) > 200
    assert {name.partition("-")[0] for name in allowed} == set(OPTIMIZERS)
    for first in range(0, len(allowed), AT_ONCE):
        some = {name: recipes[name] for name in allowed[first : first + AT_ONCE]}
        assert_trained(run_recipes(some, tmp_path / str(first)))
