"""What ``distft submit ray`` hands to a Ray cluster: an id, a command, an environment and some small files. Pure.

The job runs the cluster's own installation. Of this machine only the texts of the recipes and of the cluster file
travel, so nothing of a checkout is uploaded; paths in the recipe mean what they mean here, in this working folder,
which the cluster must see.
"""

from __future__ import annotations

import hashlib
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distft.common.errors import EnvironmentFallsShort, UserError
from distft.config.cluster import Cluster, cluster_file, load_cluster
from distft.config.load import recipe_file, said_in_full
from distft.config.pipeline import Pipeline
from distft.config.recipe import Recipe
from distft.launch.preflight.checks import check_memory
from distft.planning.generation import installed_vllm
from distft.planning.machine import PASSED_ON
from distft.planning.plan import make_plan
from distft.tracking.stop_request import JOB

SERVER = "RAY_API_SERVER_ADDRESS"
# How long Ray leaves a job that is stopped (from the dashboard, say) before it kills it: a step and a checkpoint.
STOP_WAIT_S = 1800
HIDDEN = "(from this environment)"
_RECIPE = "recipe.yaml"


@dataclass(frozen=True)
class RayJob:
    """A job as it would be submitted. ``id_prefix`` is the run's own; its jobs are numbered from 1.

    ``passed_on``: variables whose values come from this environment, and are not to be shown.
    """

    id_prefix: str
    address: str
    entrypoint: str
    environment: Mapping[str, str]
    passed_on: tuple[str, ...]
    files: Mapping[str, str]
    cluster: Cluster
    run_dir: Path

    def shown(self, job_id: str | None = None) -> dict[str, Any]:
        """For ``--dry-run`` and ``--json``: everything but values that come from this environment."""
        variables = {
            name: HIDDEN if name in self.passed_on else value for name, value in sorted(self.environment.items())
        }
        return {
            "submission_id": job_id or f"{self.id_prefix}-1",
            "address": self.address,
            "entrypoint": self.entrypoint,
            "runtime_env": {"working_dir": sorted(self.files), "env_vars": variables},
            "run_dir": str(self.run_dir),
        }


@dataclass(frozen=True)
class Package:
    """What is to be trained, as it travels: ``files`` by name, of which ``recipe.yaml`` is trained with the
    ``overrides``; ``recipes``: all that is in it, each of which must fit."""

    name: str
    output_dir: str
    files: Mapping[str, str]
    overrides: tuple[str, ...]
    recipes: tuple[Recipe, ...]


def packed(recipe: Recipe, recipe_name: str, overrides: Sequence[str]) -> Package:
    """A recipe of that name, or file, with these overrides."""
    said = (*overrides, *said_in_full(recipe))
    return Package(recipe.name, recipe.output_dir, {_RECIPE: _text(recipe_name)}, said, (recipe,))


def packed_pipeline(pipeline: Pipeline, name: str, overrides: Sequence[str]) -> Package:
    """A pipeline of that name, or file, with these overrides, and beside it those recipes of its stages that are
    files."""
    files, said = {_RECIPE: _text(name)}, list(overrides)
    for stage in pipeline.trained:
        if Path(stage.source).is_file():
            files[f"stage-{stage.name}.yaml"] = _text(stage.source)
            said.append(f"stages.{stage.name}.recipe=stage-{stage.name}.yaml")
        said += [f"stages.{stage.name}.{one}" for one in said_in_full(stage.recipe)]
    recipes = tuple(stage.shaped for stage in pipeline.trained)
    return Package(pipeline.name, pipeline.output_dir, files, tuple(said), recipes)


def ray_job(
    package: Package, cluster_name: str, environment: Mapping[str, str], folder: Path, *, dry_run: bool = False
) -> RayJob:
    """The job of what is submitted from ``folder`` with these variables; for a ``dry_run`` it need not be said where
    to. Raises UserError, EnvironmentFallsShort."""
    cluster = load_cluster(cluster_name)
    if cluster.kind != "ray":
        raise UserError(
            f"is of kind {cluster.kind}, not ray", where=f"cluster {cluster.name}", hint="e.g. --cluster ray-existing"
        )
    unsaid = dry_run and not (cluster.address or environment.get(SERVER))
    address = f"({SERVER} is not set)" if unsaid else server_address(cluster, environment)
    node = cluster.node
    if "auto" not in (cluster.nodes, node.cpus, node.gpus, node.memory_gib):
        for recipe in package.recipes:
            check_memory(make_plan(recipe, cluster, vllm=installed_vllm()))
    run_dir = folder / package.output_dir
    prefix = f"distft-{_slug(package.name)}-{hashlib.sha256(str(run_dir).encode()).hexdigest()[:10]}"
    variables, passed_on = _environment(cluster, environment)
    return RayJob(
        id_prefix=prefix,
        address=address,
        entrypoint=_entrypoint(cluster, folder, package.overrides),
        environment=variables,
        passed_on=passed_on,
        files={**package.files, "cluster.yaml": cluster_file(cluster_name).read_text(encoding="utf-8")},
        cluster=cluster,
        run_dir=run_dir,
    )


def _text(recipe_name: str) -> str:
    return recipe_file(recipe_name).read_text(encoding="utf-8")


def server_address(cluster: Cluster, environment: Mapping[str, str]) -> str:
    """Where Ray's job server listens, explicitly: ``http://host:port``. Raises UserError or EnvironmentFallsShort."""
    address = (cluster.address or environment.get(SERVER, "")).rstrip("/")
    if not address:
        raise EnvironmentFallsShort(
            "where its job server listens is not said",
            where=f"cluster {cluster.name}",
            hint=f"set {SERVER}=http://HEAD:8265, or `address:` in a cluster file of your own",
        )
    if not re.fullmatch(r"https?://[^/\s:]+(:\d+)?|https?://\[[0-9a-fA-F:]+\](:\d+)?", address):
        where = "address" if cluster.address else SERVER
        raise UserError(f"{address!r} is not an explicit address", where=where, hint="http://HEAD:8265, say")
    return address


def _entrypoint(cluster: Cluster, folder: Path, overrides: Sequence[str]) -> str:
    """The shell command of the job: every word of the user's is quoted, and nothing else is expanded in it."""
    python = f"{cluster.virtualenv}/bin/python" if cluster.virtualenv else "python"
    quoted = shlex.quote(str(folder))
    lost = shlex.quote(
        f"distft: the folder {folder} is not seen on the cluster: submit from a folder on the shared file system"
    )
    words = shlex.join(overrides)
    return (
        f'package="$PWD"; cd -- {quoted} || {{ echo {lost} >&2; exit 3; }}; exec {shlex.quote(python)} -m distft.cli'
        f' train "$package/recipe.yaml" --cluster "$package/cluster.yaml"{" " + words if words else ""}'
    )


def _environment(cluster: Cluster, environment: Mapping[str, str]) -> tuple[dict[str, str], tuple[str, ...]]:
    """The job's variables, and the names of those that have their value from here."""
    wanted = [name for name, value in cluster.environment.items() if value is None]
    passed_on = [name for name in (*wanted, *PASSED_ON) if name in environment]
    said = {name: value for name, value in cluster.environment.items() if value is not None}
    here = {name: environment[name] for name in passed_on}
    fixed = {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_WAIT_S), "PYTHONUNBUFFERED": "1"}
    fixed |= {"TMPDIR": cluster.scratch} if cluster.scratch else {}
    return fixed | here | said, tuple(name for name in passed_on if name not in said)


def numbered(prefix: str, number: int) -> str:
    """The id of the run's job of this number."""
    return f"{prefix}-{number}"


def number_of(prefix: str, job_id: str | None) -> int:
    """The number in a job's id; 0 for a job of another run."""
    match = re.fullmatch(re.escape(prefix) + r"-(\d+)", job_id or "")
    return int(match[1]) if match else 0


def with_id(environment: Mapping[str, str], job_id: str) -> dict[str, str]:
    """The job's variables once its id is known: ``distft cancel`` names it while the run has not started."""
    return {**environment, JOB: job_id}


def _slug(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-")[:40] or "run"
