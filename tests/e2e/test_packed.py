"""Samples packed in one row through the worker's own update: what is learned, measured and sampled is that of padded
rows, on one rank and on two."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import lines
from tests.harness.compare import at_most, largest_metric_difference, largest_weight_difference
from tests.harness.corpus import Starts
from tests.harness.jobs import Outcome
from tests.harness.layouts import run_spmd
from tests.harness.matrix import Layouts, outcomes
from tests.harness.recipes import (
    RATE,
    VALUE_RATE,
    adapted,
    dpo_recipe,
    model,
    ppo_recipe,
    recipe,
    supervised_recipe,
    with_packed_rows,
)

pytest_plugins = ["tests.harness.fixtures"]
pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(900)]

NAMES = ("pretrain", "sft", "sft-lora", "dpo", "ppo")


def recipes(starts: Starts) -> dict[str, dict[str, Any]]:
    """Two steps each; of adapters with checkpointing and noise. Four stories in blocks, measured at each step."""
    made = recipe({"kind": "pretrain"}, {"policy": model(starts.policy)}, starts, steps=2, batch=8, cap=96)
    made["data"] = {
        "train": [{"path": "builtin:stories", "limit": 40}], "eval": [{"path": "builtin:stories", "limit": 12}],
        "max_length": 48,
    }  # fmt: skip
    made["evaluation"] = {"every": 1, "max_samples": 12}
    sft = supervised_recipe(starts, {"kind": "sft"}, role="policy", path=starts.policy)
    noisy = adapted(
        supervised_recipe(starts, {"kind": "sft", "neftune_alpha": 10.0}, role="policy", path=starts.policy)
    )
    noisy["models"]["policy"]["gradient_checkpointing"] = True
    return {"pretrain": made, "sft": sft, "sft-lora": noisy, "dpo": dpo_recipe(starts), "ppo": ppo_recipe(starts)}


@pytest.fixture(scope="module")
def runs(layouts: Layouts, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Outcome]:
    """By name and, of packed ones, number of ranks."""
    every = recipes(layouts.starts)
    assert tuple(every) == NAMES
    in_rows = {name: with_packed_rows(made, packed=False) for name, made in every.items()}
    found: dict[str, Outcome] = {}
    for num_ranks in (1, 2):
        folder: Path = tmp_path_factory.mktemp(f"packed-{num_ranks}")
        asked = {f"{name} {num_ranks}": with_packed_rows(made) for name, made in every.items()}
        jobs = Layouts(folder, layouts.starts).jobs("runs", asked | (in_rows if num_ranks == 1 else {}))
        run_spmd(jobs, num_ranks, folder / "runs")
        found |= outcomes(jobs)
    return found


@pytest.mark.parametrize("num_ranks", [1, 2])
@pytest.mark.parametrize("name", NAMES)
def test_a_packed_run_is_one_of_padded_rows(runs: Mapping[str, Outcome], name: str, num_ranks: int) -> None:
    rows, one = runs[name], runs[f"{name} {num_ranks}"]
    assert rows.error == one.error == ""
    assert largest_metric_difference(one.metrics, rows.metrics) <= at_most(1e-5)
    assert one.rollouts == rows.rollouts
    assert len(one.held_out) == (2 if name == "pretrain" else 0)
    assert largest_metric_difference(one.held_out, rows.held_out) <= at_most(1e-5)
    rates = {"policy": RATE, **({"value": VALUE_RATE} if name == "ppo" else {})}
    for role, rate in rates.items():
        assert largest_weight_difference(one.weights(role), rows.weights(role), rate) <= at_most(1.0), role


def test_they_have_no_padding(runs: Mapping[str, Outcome]) -> None:
    shares = {
        name: [line["perf/padding_fraction"] for line in lines(run.folder, "metrics") if line["split"] == "train"]
        for name, run in runs.items()
    }
    assert all(share == [0.0] * len(share) for name, share in shares.items() if name not in NAMES)
    assert all(max(shares[name]) > 0.1 for name in NAMES)
