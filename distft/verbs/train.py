"""``distft train``, and what its dry run says."""

from __future__ import annotations

import argparse
import json
import os
from typing import TYPE_CHECKING

from distft.verbs.recipe import add_recipe
from distft.verbs.warnings import warn

if TYPE_CHECKING:
    from distft.launch.prepare import Prepared

DESCRIPTION = "run a recipe or a pipeline here, or go on where it stopped"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What may be typed after it."""
    add_recipe(parser)
    parser.add_argument("--dry-run", action="store_true", help="read the rows, look at the models, start nothing")
    parser.add_argument("--quiet", action="store_true", help="no progress display")
    parser.add_argument("--json", action="store_true", help="print the outcome as JSON, and nothing else")


def run(arguments: argparse.Namespace) -> int:
    """Trains here, on the nodes of the allocation that this process is in, or not at all."""
    from distft.config.load import load_recipe
    from distft.config.pipeline import is_pipeline
    from distft.launch.prepare import prepare

    if is_pipeline(arguments.recipe):
        return _stages(arguments)
    recipe = load_recipe(arguments.recipe, arguments.overrides)
    prepared = prepare(recipe, arguments.cluster, dry_run=arguments.dry_run)
    warn(prepared.warnings)
    if arguments.dry_run:
        _rehearse(prepared, as_json=arguments.json)
        return 0
    if prepared.cluster.kind == "slurm" and not prepared.finished and not os.environ.get("RAY_ADDRESS"):
        from distft.launch.slurm.submission import train_in_allocation

        return train_in_allocation(prepared.recipe, arguments.recipe, arguments.overrides, arguments.cluster)
    _train(prepared, quiet=arguments.quiet, as_json=arguments.json)
    return 0


def _stages(arguments: argparse.Namespace) -> int:
    from distft.config.pipeline import load_pipeline
    from distft.verbs.training_pipeline import rehearse_pipeline, train_pipeline

    pipeline = load_pipeline(arguments.recipe, arguments.overrides)
    if arguments.dry_run:
        rehearse_pipeline(pipeline, arguments.cluster, as_json=arguments.json)
        return 0
    return train_pipeline(pipeline, arguments.cluster, quiet=arguments.quiet, as_json=arguments.json)


def _rehearse(prepared: Prepared, *, as_json: bool) -> None:
    """Says what the run would still warn of; nothing of a finished one."""
    found: tuple[str, ...] = ()
    if not prepared.finished:
        from distft.launch.rehearsal import rehearse

        found = rehearse(prepared)
        warn(found)
    name, run_dir = prepared.recipe.name, prepared.run_dir
    state = "already finished" if prepared.finished else "ready to start"
    answer = {"name": name, "run_dir": str(run_dir), "state": state, "warnings": [*prepared.warnings, *found]}
    print(json.dumps(answer) if as_json else f"{name}: {state} ({run_dir})")


def _train(prepared: Prepared, *, quiet: bool, as_json: bool) -> None:
    from distft.launch.run import run
    from distft.launch.table import before_after

    name, outcome = prepared.recipe.name, run(prepared, quiet=quiet or as_json)
    if as_json:
        print(json.dumps(outcome.summary()))
    elif outcome.finished_before:
        print(f"{name}: already finished, the model is in {outcome.final}")
    else:
        if outcome.table:
            print(f"{before_after({name: outcome.table})}\n({outcome.judged_on})")
        print(f"{name}: done, the model is in {outcome.final}")
        if outcome.report.is_file():
            print(f"the report: {outcome.report}")
