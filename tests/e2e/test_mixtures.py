"""Rows of several sources: on two ranks as on one, each source's loss told, and old rows rehearsed."""

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
from tests.harness.recipes import RATE, model, recipe

pytest_plugins = ["tests.harness.fixtures"]
pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(900)]

NAMES = ("loss_by_source/new", "loss_by_source/old")


def mixed(starts: Starts, *, cap: int = 200) -> dict[str, Any]:
    """Four steps of eight rows, a quarter of them old."""
    made = recipe({"kind": "sft"}, {"policy": model(starts.policy)}, starts, steps=4, batch=8, cap=cap)
    new = {"path": str(starts.rows), "format": "preference", "limit": 12, "name": "new"}
    old = {"path": str(starts.labelled), "name": "old"}
    made["data"] |= {"train": [new, {**old, "share": 0.25}], "eval": [new, old], "on_leak": "warn"}
    made["evaluation"] = {"every": 2, "max_samples": 64}
    return made


@pytest.fixture(scope="module")
def runs(layouts: Layouts, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Outcome]:
    found: dict[str, Outcome] = {}
    for num_ranks in (1, 2):
        folder: Path = tmp_path_factory.mktemp(f"mixed-{num_ranks}")
        recipes = {"alone": mixed(layouts.starts)}
        if num_ranks == 2:
            recipes = {"two": mixed(layouts.starts), "cut": mixed(layouts.starts, cap=100)}
        jobs = Layouts(folder, layouts.starts).jobs("runs", recipes)
        run_spmd(jobs, num_ranks, folder / "runs")
        found |= outcomes(jobs)
    return found


@pytest.mark.parametrize("layout", ["two", "cut"])
def test_any_layout_is_one_rank(runs: Mapping[str, Outcome], layout: str) -> None:
    alone, other = runs["alone"], runs[layout]
    assert alone.error == other.error == ""
    assert largest_metric_difference(other.metrics, alone.metrics) <= at_most(1e-5)
    assert largest_metric_difference(other.held_out, alone.held_out) <= at_most(1e-5)
    assert largest_weight_difference(other.weights("policy"), alone.weights("policy"), RATE) <= at_most(1.0)


def test_every_source_is_told_and_the_loss_lies_between(runs: Mapping[str, Outcome]) -> None:
    lines = [*runs["two"].metrics, *runs["two"].held_out]
    assert len(runs["two"].held_out) >= 2
    for line in lines:
        low, high = sorted(line[name] for name in NAMES)
        assert low < line["loss"] < high
