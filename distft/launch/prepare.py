"""From a recipe and a cluster's name to a run that may start: planned on what is really here, and checked.

Nothing is started and nothing is written. No torch, no ray: ``train --dry-run`` is this and no more.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from distft.checkpoint.lease import refuse_if_held
from distft.common.errors import EnvironmentFallsShort, UserError
from distft.config.cluster import Cluster, load_cluster
from distft.config.recipe import Recipe
from distft.launch.machine import this_machine
from distft.launch.plan import Plan, make_plan
from distft.launch.preflight import preflight
from distft.launch.run_folder import is_finished, require_same_run

# Where one of these is set, this process is where a cluster of that kind can be reached.
_REACHED_BY = {"slurm": ("RAY_ADDRESS", "SLURM_JOB_ID"), "ray": ("RAY_ADDRESS",)}


@dataclass(frozen=True)
class Prepared:
    """A run that may start. ``finished``: it has ended well before, nothing is left to do."""

    recipe: Recipe
    cluster: Cluster
    plan: Plan
    run_dir: Path
    finished: bool = False
    warnings: tuple[str, ...] = ()


def planned(recipe: Recipe, cluster_name: str) -> Plan:
    """The plan on a cluster as its file says; this machine is looked at only for what a ``local`` one leaves open.

    Raises UserError or EnvironmentFallsShort.
    """
    cluster = load_cluster(cluster_name)
    node = cluster.node
    left_open = cluster.kind == "local" and "auto" in (node.cpus, node.gpus, node.memory_gib)
    return make_plan(recipe, cluster, machine=this_machine() if left_open else None)


def prepare(recipe: Recipe, cluster_name: str) -> Prepared:
    """Everything that can be checked before anything is started. Raises UserError or EnvironmentFallsShort."""
    cluster = load_cluster(cluster_name)
    _require_reachable(cluster)
    plan = make_plan(recipe, cluster, machine=this_machine())
    run_dir = Path(recipe.output_dir).absolute()
    if recipe.checkpoint.resume != "never":
        require_same_run(recipe, run_dir)
        if is_finished(recipe, run_dir):
            return Prepared(recipe, cluster, plan, run_dir, finished=True)
    _require_checkpoint(recipe.checkpoint.resume)
    warnings = preflight(recipe, plan)
    refuse_if_held(run_dir)
    return Prepared(recipe, cluster, plan, run_dir, warnings=warnings)


def _require_checkpoint(resume: str) -> None:
    """The folder to go on from is there; whether it is whole is seen when the run folder is ours."""
    if resume not in ("auto", "never") and not Path(resume).is_dir():
        hint = "give a run folder or one of its checkpoints/step_..., or auto"
        raise UserError(f"there is no folder {resume}", where="checkpoint.resume", hint=hint)


def _require_reachable(cluster: Cluster) -> None:
    """Training on nodes that this process cannot reach would put all of their ranks on this machine."""
    variables = _REACHED_BY.get(cluster.kind, ())
    if variables and not any(os.environ.get(name) for name in variables):
        raise EnvironmentFallsShort(
            f"this is a {cluster.kind} cluster, and from here none can be reached ({' and '.join(variables)} not set)",
            where=f"cluster {cluster.name}",
            hint="--cluster local trains on this machine; distft plan works anywhere",
        )
