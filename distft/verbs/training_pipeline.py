"""What ``distft train`` and ``distft quickstart`` do with a pipeline: a stage after the other, in one Ray."""

from __future__ import annotations

import json
import os
import shlex
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from distft.config.cluster import load_cluster
from distft.config.pipeline import EvalStage, Stage
from distft.launch.table import before_after, headlines
from distft.verbs.eval_stage import do_eval_stage
from distft.verbs.warnings import warn

if TYPE_CHECKING:
    from distft.config.pipeline import Pipeline
    from distft.launch.kept_evaluation import Kept
    from distft.launch.pipeline import Ready
    from distft.launch.run import Outcome


def train_pipeline(
    pipeline: Pipeline, cluster: str, *, quiet: bool = False, as_json: bool = False, option: str = "output_dir="
) -> int:
    """Runs the stages from the models of those before; one that is done is not done again, one that was stopped goes
    on. Returns the exit status. ``option`` is how the pipeline's folder is said, for what is told.

    Raises, before anything is started, what any of the stages would be refused for; then as ``run``.
    """
    from distft.launch.pipeline import ready

    started, found = time.monotonic(), ready(pipeline, cluster, option=option)
    if load_cluster(cluster).kind == "slurm" and not os.environ.get("RAY_ADDRESS"):
        return _in_allocation(found, cluster)  # each stage's job speaks for itself, as one of `distft submit` does
    outcomes: dict[str, Outcome] = {}
    evaluations: dict[str, Kept] = {}
    with _ray(found, cluster):
        for stage in pipeline.stages:
            if isinstance(stage, Stage):
                outcomes[stage.name] = _run(stage, cluster, quiet=quiet or as_json, as_json=as_json)
            else:
                evaluations[stage.name] = do_eval_stage(pipeline, stage, quiet=as_json)
    if as_json:
        said = {name: outcome.summary() for name, outcome in outcomes.items()}
        print(json.dumps(said | {name: evaluation.figures for name, evaluation in evaluations.items()}))
        return 0
    print(f"\n{before_after({name: headlines(outcome.table) for name, outcome in outcomes.items()})}\n")
    print(f"run folders, with a report.html in each: {', '.join(str(pipeline.folder(s)) for s in pipeline.stages)}")
    needed = {name for stage in pipeline.trained for name in stage.needs}
    last = [str(pipeline.folder(stage) / "final") for stage in pipeline.trained if stage.name not in needed]
    if last:
        print(f"the last models: {' and '.join(last)}")
    if found.left:
        print(f"{(time.monotonic() - started) / 60:.1f} minutes")
    else:
        print(f"all stages were finished already; for new ones: {option}{pipeline.output_dir}-2")
    return 0


def rehearse_pipeline(pipeline: Pipeline, cluster: str, *, as_json: bool) -> None:
    """What the stages would still be refused for, and warned of, without starting any. A stage whose predecessors are
    still to be trained is looked at with models of the same sizes. Raises as ``train_pipeline``."""
    from distft.launch.pipeline import ready
    from distft.launch.preflight.evaluations import check_eval_stage
    from distft.launch.prepare import prepare
    from distft.launch.rehearsal import rehearse

    found = ready(pipeline, cluster)
    answers = []
    for stage in pipeline.stages:
        warnings: tuple[str, ...] = ()
        if stage in found.left and isinstance(stage, EvalStage):
            warnings = check_eval_stage(stage)
        elif stage in found.left and isinstance(stage, Stage):
            prepared = prepare(found.recipe(stage), cluster, dry_run=True)
            # Of models that only stand in for others, nothing is said.
            said = prepared.warnings if prepared.recipe is stage.recipe else ()
            warnings = (*said, *rehearse(prepared))
        warn(f"stage {stage.name}: {text}" for text in warnings)
        state, where = "ready to start" if stage in found.left else "already finished", str(pipeline.folder(stage))
        answers.append({"stage": stage.name, "run_dir": where, "state": state, "warnings": warnings})
        if not as_json:
            print(f"{stage.name}: {state} ({where})", flush=True)
    if as_json:
        print(json.dumps(answers))


@contextmanager
def _ray(found: Ready, cluster: str) -> Iterator[None]:
    """One Ray for all stages that are left, with room for the largest."""
    from distft.launch.on_ray.for_plans import ray_for

    plans = [found.plans[stage.name] for stage in found.left if isinstance(stage, Stage)]
    where = found.pipeline.output_dir
    with ray_for(plans, Path(where).absolute(), load_cluster(cluster)) if plans else nullcontext():
        yield


def _run(stage: Stage, cluster: str, *, quiet: bool, as_json: bool) -> Outcome:
    from distft.launch.prepare import prepare
    from distft.launch.run import run

    if not as_json:
        print(f"--- {stage.name}: distft train {shlex.join(stage.words)}", flush=True)
    prepared = prepare(stage.recipe, cluster)
    warn(prepared.warnings)
    outcome = run(prepared, quiet=quiet)
    if outcome.finished_before and not as_json:
        print(f"{stage.name}: already finished, see {outcome.run_dir}", flush=True)
    return outcome


def _in_allocation(found: Ready, cluster: str) -> int:
    """The stages on the nodes of the allocation in which this process is, as jobs would run them."""
    from distft.launch.slurm.submission import train_in_allocation

    for stage in found.left:
        if isinstance(stage, EvalStage):
            do_eval_stage(found.pipeline, stage, quiet=False)
            continue
        print(f"--- {stage.name}: distft train {shlex.join(stage.words)}", file=sys.stderr, flush=True)
        status = train_in_allocation(stage.recipe, stage.source, stage.overrides, cluster)
        if status != 0:
            return status
    return 0
