"""What a node launcher is told: by its command line, by Slurm's environment, by the recipe and the cluster file."""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from distft.common.errors import UserError
from distft.config.cluster import Cluster, load_cluster
from distft.config.load import load_recipe
from distft.config.recipe import Recipe
from distft.launch.machine import available_cpus, memory_limit, this_machine
from distft.launch.slurm.array_tasks import of_task, refuse_task

DEFAULT_CLUSTER = "ray-existing"  # what is there: the plan asks the running Ray
KILL_WAIT_S = 30.0  # Slurm's own default


@dataclass(frozen=True)
class Job:
    """This node in its job. ``names``: all nodes in the order of ``scontrol show hostnames``; ``number``: this one."""

    launch: Path
    names: tuple[str, ...]
    number: int
    restart: int
    recipe_source: str
    overrides: tuple[str, ...]
    cluster_name: str
    recipe: Recipe
    cluster: Cluster
    end_time: float | None
    kill_wait: float = KILL_WAIT_S

    @property
    def needed(self) -> int:
        """Nodes without which the run cannot start: all but those in reserve."""
        if self.cluster.kind != "slurm" or self.cluster.nodes == "auto":
            return len(self.names)
        return min(self.cluster.nodes, len(self.names))

    @property
    def run_dir(self) -> Path:
        """The run folder."""
        return Path(self.recipe.output_dir).absolute()

    @property
    def name(self) -> str:
        """This node's name."""
        return self.names[self.number]


def parsed(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line. Raises UserError."""
    parser = argparse.ArgumentParser(prog="distft.launch.node", allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--where", action="store_true", help="print the run folder and start nothing")
    parser.add_argument("--launch", type=Path, default=None)
    parser.add_argument("--nodes", default="")
    parser.add_argument("--time-left", default="", help="as squeue says it")
    parser.add_argument("--kill-wait", default="", help="seconds between Slurm's SIGTERM and SIGKILL")
    parser.add_argument("--cluster", default=DEFAULT_CLUSTER)
    parser.add_argument("--sweep", action="append", default=[], metavar="KEY=A,B")
    parser.add_argument("recipe", metavar="RECIPE", nargs="?", default="")
    parser.add_argument("overrides", nargs="*", default=[])
    try:
        found, rest = parser.parse_known_args(arguments)
    except argparse.ArgumentError as error:
        raise UserError(str(error), where="train.sbatch") from None
    unknown = [text for text in rest if text.startswith("-")]
    if unknown or not found.recipe:
        what = f"unknown option {unknown[0]}" if unknown else "no RECIPE given"
        raise UserError(
            what, where="train.sbatch", hint="[options] RECIPE [--cluster C] [--sweep KEY=A,B] [key.path=value ...]"
        )
    found.overrides = [*found.overrides, *rest]
    return found


def with_task(found: argparse.Namespace, environment: Mapping[str, str]) -> list[str]:
    """The overrides of this task of an array job; of any other job as they are. Raises UserError where there is no
    task, or the sweep has none of its number."""
    task = environment.get("SLURM_ARRAY_TASK_ID", "")
    if not task.isdecimal():
        refuse_task(found.overrides, found.sweep)
        return list(found.overrides)
    return of_task(found.overrides, found.sweep, int(task))


def seconds_left(text: str) -> float | None:
    """Of squeue's ``days-hours:minutes:seconds``; None for UNLIMITED and the like."""
    days, _, clock = text.strip().rpartition("-")
    parts = clock.split(":")
    if not all(part.isdecimal() for part in parts) or not (days.isdecimal() or not days):
        return None
    seconds = 0
    for part in parts:
        seconds = seconds * 60 + int(part)
    return float(seconds + int(days or 0) * 86400)


def job_of(arguments: Sequence[str], environment: Mapping[str, str]) -> Job:
    found = parsed(arguments)
    overrides = with_task(found, environment)
    names = tuple(name for name in found.nodes.split(",") if name)
    own = environment.get("SLURMD_NODENAME", "")
    number = names.index(own) if own in names else int(environment.get("SLURM_NODEID") or 0)
    left = seconds_left(found.time_left)
    end = environment.get("SLURM_JOB_END_TIME", "")
    return Job(
        launch=found.launch,
        names=names or (os.uname().nodename,),
        number=number,
        restart=int(environment.get("SLURM_RESTART_COUNT") or 0),
        recipe_source=found.recipe,
        overrides=tuple(overrides),
        cluster_name=found.cluster,
        recipe=load_recipe(found.recipe, overrides),
        cluster=load_cluster(found.cluster),
        end_time=float(end) if end.isdecimal() and left is not None else time.time() + left if left else None,
        kill_wait=float(found.kill_wait) if found.kill_wait.isdecimal() else KILL_WAIT_S,
    )


def resources(environment: Mapping[str, str], cluster: Cluster) -> tuple[int, int, int]:
    """CPUs, GPUs and bytes of memory of this node that the job has; a cluster file without GPUs means CPU ranks."""
    said = environment.get("SLURM_CPUS_ON_NODE", "")
    cpus = int(said) if said.isdecimal() else available_cpus()
    limits = [memory_limit()]
    per_node, per_cpu = (environment.get(name, "") for name in ("SLURM_MEM_PER_NODE", "SLURM_MEM_PER_CPU"))
    limits += [int(per_node) * 2**20] if per_node.isdecimal() and int(per_node) else []
    limits += [int(per_cpu) * 2**20 * cpus] if per_cpu.isdecimal() and int(per_cpu) else []
    if cluster.kind == "slurm" and cluster.node.gpus == 0:
        return cpus, 0, min(limits)
    visible = environment.get("CUDA_VISIBLE_DEVICES", environment.get("ROCR_VISIBLE_DEVICES"))
    gpus = this_machine().gpus if visible is None else len([device for device in visible.split(",") if device.strip()])
    return cpus, gpus, min(limits)
