"""From a recipe and a cluster's name to a run that may start: planned on what is really here, and checked.

Nothing is started and nothing is written; ``train --dry-run`` goes on from here with ``rehearsal``. No torch; and no
ray, except to ask a Ray cluster that runs already what it has.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from distft.checkpoint.lease import refuse_if_held
from distft.common.errors import EnvironmentFallsShort, UserError
from distft.config.cluster import Cluster, Slurm, load_cluster
from distft.config.recipe import Recipe
from distft.config.rules import check
from distft.data.class_labels import labels_in
from distft.launch.machine import for_cpus_alone, this_machine
from distft.launch.preflight.checks import check_output_dir, preflight
from distft.launch.run_folder import is_finished, require_same_run
from distft.planning.footprint import SizeBook
from distft.planning.generation import installed_vllm, require_vllm
from distft.planning.machine import Machine
from distft.planning.packed_rows import with_rows
from distft.planning.plan import Plan, make_plan
from distft.planning.rates import Rates, read_rates
from distft.tracking.tensorboard import require_tensorboard

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


def planned(recipe: Recipe, cluster_name: str, *, nodes: int | None = None) -> Plan:
    """The plan on a cluster as its file says, or on so many of its ``nodes``. What the file leaves open (``auto``) is
    looked up: on this machine for a ``local`` one, on the running Ray for one of kind ``ray``.

    Raises UserError or EnvironmentFallsShort.
    """
    cluster = load_cluster(cluster_name)
    if nodes is not None:
        cluster = _with_nodes(cluster, nodes)
    node = cluster.node
    left_open = "auto" in (cluster.nodes, node.cpus, node.gpus, node.memory_gib)
    machine = _machine(cluster) if left_open else None
    return make_plan(recipe, cluster, machine=machine, rates=_rates(cluster, machine), vllm=installed_vllm())


def prepare(recipe: Recipe, cluster_name: str, *, dry_run: bool = False) -> Prepared:
    """Everything that can be checked before anything is started. Raises UserError or EnvironmentFallsShort.

    A ``dry_run`` for a Slurm cluster works on a login node, too: its file says all of it.
    """
    recipe, cluster = with_rows(with_labels(recipe), SizeBook()), _of_job(load_cluster(cluster_name))
    if not (dry_run and cluster.kind == "slurm"):
        _require_reachable(cluster)
    machine = _machine(cluster)
    plan = make_plan(recipe, cluster, machine=machine, rates=_rates(cluster, machine), vllm=installed_vllm())
    if cluster.kind == "local" and plan.hardware.gpus:
        _require_torch_for_gpus(cluster.name)
    if not (dry_run and cluster.kind == "slurm"):
        require_vllm(recipe, gpu=plan.hardware.gpus > 0)
        require_tensorboard(recipe)
    check_output_dir(Path(recipe.output_dir))  # before anything in it is looked for
    run_dir = Path(recipe.output_dir).absolute()
    if recipe.checkpoint.resume != "never":
        require_same_run(recipe, run_dir)
        if is_finished(recipe, run_dir):
            return Prepared(recipe, cluster, plan, run_dir, finished=True)
    _require_checkpoint(recipe.checkpoint.resume)
    warnings = preflight(recipe, plan)
    refuse_if_held(run_dir)
    return Prepared(recipe, cluster, plan, run_dir, warnings=warnings)


def with_labels(recipe: Recipe) -> Recipe:
    """The recipe with the labels of its data, where it trains a classifier and names none. Raises UserError where there
    are none, and what reading the data can raise."""
    algorithm = recipe.algorithm.with_labels(lambda: labels_in(recipe.data.train))
    if algorithm is recipe.algorithm:
        return recipe
    named = recipe.model_copy(update={"algorithm": algorithm})
    check(named)
    return named


def _with_nodes(cluster: Cluster, nodes: int) -> Cluster:
    if nodes < 1:
        raise UserError(f"must be at least 1, not {nodes}", where="--nodes")
    if cluster.kind == "local" and nodes != 1:
        hint = "give a cluster of kind slurm or ray, such as --cluster slurm-h100"
        raise UserError(f"{cluster.name} is one machine", where=f"--nodes {nodes}", hint=hint)
    return cluster.model_copy(update={"nodes": nodes})


def _of_job(cluster: Cluster) -> Cluster:
    """With as many nodes in reserve as the Slurm job has in which this process is, whatever the file says."""
    there = os.environ.get("SLURM_JOB_NUM_NODES", "")
    if cluster.kind != "slurm" or not there.isdecimal():
        return cluster
    spare = max(0, int(there) - int(cluster.nodes))
    return cluster.model_copy(update={"slurm": (cluster.slurm or Slurm()).model_copy(update={"spare_nodes": spare})})


def _machine(cluster: Cluster) -> Machine:
    """Where the run would be: the nodes of the Ray that runs already, or this machine."""
    if cluster.kind != "ray":
        return this_machine()
    from distft.launch.on_ray.cluster import existing_machine

    return existing_machine(cluster)


def _rates(cluster: Cluster, machine: Machine | None) -> Rates | None:
    return read_rates(cluster, machine.gpu_type if machine else "")


def _require_torch_for_gpus(cluster: str) -> None:
    """The driver shows GPUs to every program, torch uses them only where it is built for them."""
    if for_cpus_alone(installed := version("torch")):
        raise EnvironmentFallsShort(
            f"a GPU is here, and the installed torch ({installed}) is built for CPUs alone",
            where=f"cluster {cluster}",
            hint="pip install --force-reinstall torch, by the line of pytorch.org for your driver's CUDA; "
            "CUDA_VISIBLE_DEVICES= before the command trains on the CPU",
        )


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
            hint=f"distft submit {cluster.kind} starts it there; --cluster local trains on this machine",
        )
