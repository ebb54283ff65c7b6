"""A small run folder, written by what writes real ones."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from distft.config.cluster import load_cluster
from distft.config.load import load_recipe
from distft.launch.run_folder import write_recipe
from distft.planning.plan import make_plan
from distft.tracking.environment import write_environment
from distft.tracking.exit import Ending, write_exit
from distft.tracking.metrics import Sample
from distft.tracking.tracker import Tracker

STEPS = 5
DONE = Ending.of(None)
MakeRun = Callable[..., Path]


@pytest.fixture(scope="session")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A PPO run of five steps that has not said how it ended."""
    run_dir = tmp_path_factory.mktemp("written")
    recipe = load_recipe("ppo-tiny", [f"output_dir={run_dir}"])
    write_recipe(recipe, run_dir)
    plan = make_plan(recipe, load_cluster("one-node-8xh100"))
    (run_dir / "plan.json").write_text(plan.model_dump_json(indent=1))
    write_environment(run_dir)
    with Tracker(run_dir, attempt=1, resume_step=None) as tracker:
        tracker.event("start", recipe=recipe.name, cluster="local")
        tracker.event("data_ready", train="6000 of 6000 rows kept")
        tracker.event("ready", step=0, total_steps=STEPS)
        tracker.log(0, {"objective/score": 0.0}, split="eval")
        for step in range(1, STEPS + 1):
            values = {"objective/scores": 1.0 * step, "objective/kl": 0.1 * step, "loss": 0.5, "timing/update": 3.0,
                      "timing/rollout": 1.0, "timing/step": 5.0, "timing/idle_share": 0.2,
                      "memory/policy/reserved_peak": 2**30 + step}  # fmt: skip
            tracker.log(step, values)
            tracker.samples(step, [Sample("Are you there?", f"Yes. {step}", float(step))])
        tracker.event("done", step=STEPS)
    return run_dir


@pytest.fixture
def make_run(tmp_path: Path, written: Path) -> MakeRun:
    """``make_run(name)``: that run, by that folder's name, with an end (None: nobody said how) and a table of held-out
    metrics."""

    def make(
        name: str = "run",
        *,
        ending: Ending | None = DONE,
        table: Mapping[str, tuple[float, float]] | None = None,
        rows: int = 96,
    ) -> Path:
        run_dir = tmp_path / name
        shutil.copytree(written, run_dir)
        if ending is not None:
            write_exit(run_dir, ending, 1)
        pairs = table or {"objective/score": (0.0, 5.0), "objective/score_std": (2.0, 2.0), "objective/kl": (0.0, 3.0)}
        metrics = {metric: {"before": before, "after": after} for metric, (before, after) in pairs.items()}
        content: dict[str, Any] = {"format": 1, "split": "test", "rows": rows, "rows_in_all": 300, "metrics": metrics}
        (run_dir / "before_after.json").write_text(json.dumps(content))
        return run_dir

    return make
