"""Noise on the embeddings through the worker's own update: on two ranks and in small micro-batches as on one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.harness.compare import at_most, largest_metric_difference, largest_weight_difference
from tests.harness.corpus import Starts
from tests.harness.jobs import Outcome
from tests.harness.layouts import run_spmd
from tests.harness.matrix import Layouts, outcomes
from tests.harness.recipes import RATE, adapted, supervised_recipe

pytest_plugins = ["tests.harness.fixtures"]
pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(900)]


def noisy(starts: Starts, *, alpha: float = 10.0, cap: int = 200, lora: bool = False) -> dict[str, Any]:
    made = supervised_recipe(starts, {"kind": "sft", "neftune_alpha": alpha}, role="policy", path=starts.policy)
    made["train"]["max_tokens_per_rank"] = cap
    made["models"]["policy"]["gradient_checkpointing"] = cap < 200
    return adapted(made) if lora else made


@pytest.fixture(scope="module")
def runs(layouts: Layouts, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Outcome]:
    found: dict[str, Outcome] = {}
    for num_ranks in (1, 2):
        folder: Path = tmp_path_factory.mktemp(f"noise-{num_ranks}")
        starts = layouts.starts
        recipes = {
            1: {"one": noisy(starts), "one lora": noisy(starts, lora=True), "still": noisy(starts, alpha=0.0)},
            2: {"two": noisy(starts), "cut": noisy(starts, cap=100), "two lora": noisy(starts, lora=True)},
        }[num_ranks]
        jobs = Layouts(folder, starts).jobs("runs", recipes)
        run_spmd(jobs, num_ranks, folder / "runs")
        found |= outcomes(jobs)
    return found


@pytest.mark.parametrize(("layout", "alone"), [("two", "one"), ("cut", "one"), ("two lora", "one lora")])
def test_any_layout_is_one_rank(runs: Mapping[str, Outcome], layout: str, alone: str) -> None:
    one, other = runs[alone], runs[layout]
    assert one.error == other.error == ""
    assert largest_metric_difference(other.metrics, one.metrics) <= at_most(1e-5)
    assert largest_weight_difference(other.weights("policy"), one.weights("policy"), RATE) <= at_most(1.0)


def test_there_is_noise(runs: Mapping[str, Outcome]) -> None:
    assert largest_metric_difference(runs["one"].metrics, runs["still"].metrics, ["loss"])[0] > 1e-3
