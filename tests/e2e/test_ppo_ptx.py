"""PPO whose policy also keeps other texts likely: on two ranks as on one, and to what end."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.harness.compare import at_most, largest_metric_difference, largest_weight_difference
from tests.harness.jobs import Outcome
from tests.harness.layouts import run_spmd
from tests.harness.matrix import Layouts, outcomes
from tests.harness.recipes import RATE, VALUE_RATE, ppo_recipe

pytest_plugins = ["tests.harness.fixtures"]
pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(900)]


def recipe(layouts: Layouts, coef: float, steps: int = 2) -> dict[str, Any]:
    """Four optimizer steps an iteration, each with three answers of the corpus besides."""
    made = ppo_recipe(layouts.starts, ptx_coef=coef, ptx_batch=3)
    made["data"]["ptx"] = [{"path": str(layouts.starts.rows), "format": "preference"}]
    made["train"]["steps"] = steps
    return made


@pytest.fixture(scope="module")
def runs(layouts: Layouts, tmp_path_factory: pytest.TempPathFactory) -> Mapping[int, Mapping[str, Outcome]]:
    """By number of ranks; on one for longer, too, with texts that hardly weigh and with texts that do."""
    found = {}
    for num_ranks in (1, 2):
        folder: Path = tmp_path_factory.mktemp(f"ptx-{num_ranks}")
        recipes = {"short": recipe(layouts, 0.5)}
        if num_ranks == 1:
            recipes |= {"light": recipe(layouts, 1e-6, steps=12), "heavy": recipe(layouts, 1.0, steps=12)}
        jobs = Layouts(folder, layouts.starts).jobs("runs", recipes)
        run_spmd(jobs, num_ranks, folder / "runs")
        found[num_ranks] = outcomes(jobs)
    return found


def test_two_ranks_are_one(runs: Mapping[int, Mapping[str, Outcome]]) -> None:
    alone, two = runs[1]["short"], runs[2]["short"]
    assert alone.error == two.error == ""
    assert largest_metric_difference(two.metrics, alone.metrics) <= at_most(1e-5)
    assert alone.metrics[0]["ptx/loss"] > 0
    assert two.rollouts == alone.rollouts
    for role, rate in (("policy", RATE), ("value", VALUE_RATE)):
        assert largest_weight_difference(two.weights(role), alone.weights(role), rate) <= at_most(1.0)


def test_texts_become_likelier_by_their_weight(runs: Mapping[int, Mapping[str, Outcome]]) -> None:
    light, heavy = (runs[1][name] for name in ("light", "heavy"))
    assert light.error == heavy.error == ""
    assert heavy.metrics[-1]["ptx/loss"] < heavy.metrics[0]["ptx/loss"] - 0.1
    assert heavy.metrics[-1]["ptx/loss"] < light.metrics[-1]["ptx/loss"] - 0.1
