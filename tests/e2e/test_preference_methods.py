"""Methods that learn from given answers which are better: on two ranks as on one, and to what end."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.harness.compare import at_most, largest_metric_difference, largest_weight_difference
from tests.harness.jobs import Outcome
from tests.harness.layouts import run_spmd
from tests.harness.matrix import Layouts, outcomes
from tests.harness.recipes import PREFERENCE_METHODS, RATE, preference_recipe

pytest_plugins = ["tests.harness.fixtures"]
pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def twins(layouts: Layouts, tmp_path_factory: pytest.TempPathFactory) -> Mapping[int, Mapping[str, Outcome]]:
    """Every method by number of ranks, and on two ranks for longer."""
    found = {}
    for num_ranks in (1, 2):
        folder: Path = tmp_path_factory.mktemp(f"preference-{num_ranks}")
        recipes = {name: preference_recipe(layouts.starts, name) for name in PREFERENCE_METHODS}
        if num_ranks == 2:
            recipes |= {
                f"{name} for long": preference_recipe(layouts.starts, name, steps=30) for name in PREFERENCE_METHODS
            }
        jobs = Layouts(folder, layouts.starts).jobs("twins", recipes)
        run_spmd(jobs, num_ranks, folder / "twins")
        found[num_ranks] = outcomes(jobs)
    return found


@pytest.mark.parametrize("method", PREFERENCE_METHODS)
def test_two_ranks_are_one(twins: Mapping[int, Mapping[str, Outcome]], method: str) -> None:
    alone, two = twins[1][method], twins[2][method]
    assert alone.error == two.error == ""
    assert largest_metric_difference(two.metrics, alone.metrics) <= at_most(1e-5)
    assert largest_weight_difference(two.weights("policy"), alone.weights("policy"), RATE) <= at_most(1.0)


@pytest.mark.parametrize("method", PREFERENCE_METHODS)
def test_held_out_answers_are_told_apart(twins: Mapping[int, Mapping[str, Outcome]], method: str) -> None:
    first, *_, last = twins[2][f"{method} for long"].held_out
    assert last["loss"] < first["loss"], "the objective itself"
    assert last["rewards/margins"] > first["rewards/margins"]
    assert last["rewards/accuracies"] > min(0.99, first["rewards/accuracies"])
