"""Runs as Slurm jobs: checked on the login node, submitted by argv, asked about and cancelled by id.

No torch, no ray: a login node answers in a second.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from distft.checkpoint.lease import refuse_if_held
from distft.common.errors import EnvironmentFallsShort, UserError
from distft.config.cluster import Cluster, load_cluster
from distft.config.load import load_recipe
from distft.config.recipe import Recipe
from distft.launch import slurm_checks
from distft.launch.jobs.job_record import JobRecord, add_job
from distft.launch.preflight import check_memory, check_output_dir, preflight
from distft.launch.slurm_options import (
    TASK,
    Asked,
    Rendered,
    batch_script,
    checkable,
    render,
    run_dirs,
    script_options,
    tasks,
)
from distft.planning.plan import make_plan

# Of an allocation in which one may be while submitting: they would be taken for options of the new job.
_KEPT_SLURM = ("SLURM_CONF", "SLURM_CLUSTERS")


@dataclass(frozen=True)
class Submission:
    """A job submitted, or (``job_id`` None) what would be run. ``shell``: all of it as a line to paste."""

    job_id: str | None
    command: tuple[str, ...]
    script: Path
    shell: str = ""
    run_dirs: tuple[Path, ...] = ()


@dataclass(frozen=True)
class SlurmJob:
    """What Slurm says of a job. ``state`` in its own word; ``exit_code`` None while there is none."""

    state: str
    exit_code: int | None = None
    reason: str = ""
    nodes: tuple[str, ...] = ()


def submit(
    recipe: Recipe,
    recipe_source: str,
    overrides: Sequence[str],
    cluster_name: str,
    *,
    after: Sequence[str] = (),
    array: str | None = None,
    dry_run: bool = False,
) -> Submission:
    """Submits the recipe, or with ``dry_run`` only says how: that needs neither Slurm nor the cluster.

    ``recipe`` is what ``recipe_source`` and ``overrides`` say (``checkable`` of them, for an array). In an array job
    ``{task}`` in an override is the task's number. Raises UserError or EnvironmentFallsShort: one message for the
    first thing that is wrong, Slurm's own refusal included.
    """
    cluster = load_cluster(cluster_name)
    if cluster.kind != "slurm":
        raise UserError(
            f"is of kind {cluster.kind}", where=f"cluster {cluster.name}", hint="kind: slurm is needed here"
        )
    folder = Path.cwd()
    run_dir = str(folder / _output_dir(recipe_source, overrides, array, recipe))
    asked = Asked(
        recipe.name, run_dir, recipe_source, tuple(overrides), cluster, cluster_name, folder, tuple(after), array
    )
    script = batch_script()
    rendered = render(asked, script=script, python=sys.executable)
    prepared = Submission(None, rendered.command, script, rendered.shell, tuple(map(Path, run_dirs(asked))))
    _check_plan(recipe, cluster, waits=bool(after))
    _require_environment(cluster)
    if dry_run:
        return prepared
    for one in prepared.run_dirs:
        check_output_dir(one)
        if not after and not array:
            refuse_if_held(one)
    environment = _environment(os.environ)
    slurm_checks.check(cluster, slurm_checks.kinds(slurm_checks.ask(slurm_checks.SINFO, environment)))
    _write(rendered)
    job_id = slurm_checks.ask(rendered.command, environment).strip().partition(";")[0]
    if not re.fullmatch(r"\d+", job_id):
        raise EnvironmentFallsShort(f"sbatch printed {job_id!r}, which is no job id", where="slurm")
    for number, one in enumerate(prepared.run_dirs):
        task = f"_{tasks(array)[number]}" if array and TASK in run_dir else ""
        add_job(one, JobRecord(kind="slurm", job_id=f"{job_id}{task}", cluster=cluster.name))
    return replace(prepared, job_id=job_id)


def train_in_allocation(recipe: Recipe, recipe_source: str, overrides: Sequence[str], cluster_name: str) -> int:
    """Runs the recipe on the nodes of the allocation in which this process is, as a job would; its exit status."""
    cluster, folder = load_cluster(cluster_name), Path.cwd()
    run_dir = str(folder / recipe.output_dir)
    asked = Asked(recipe.name, run_dir, recipe_source, tuple(overrides), cluster, cluster_name, folder)
    words = [*script_options(asked, sys.executable), recipe_source, "--cluster", cluster_name, *overrides]
    return subprocess.call(["bash", str(batch_script()), *words])


def job_state(job_id: str) -> SlurmJob:
    """Asks Slurm, and its accounting where it has forgotten the job. Raises EnvironmentFallsShort."""
    try:
        text = slurm_checks.ask(["scontrol", "show", "--oneliner", "job", job_id], _environment(os.environ))
    except slurm_checks.SlurmRefused:
        return _from_accounting(job_id)
    fields = dict(word.split("=", 1) for word in text.splitlines()[0].split(" ") if "=" in word) if text.strip() else {}
    if not fields:
        return _from_accounting(job_id)
    state, reason = fields.get("JobState", "UNKNOWN"), fields.get("Reason", "")
    ended = state not in ("PENDING", "RUNNING", "SUSPENDED", "COMPLETING", "CONFIGURING")
    return SlurmJob(
        state,
        _exit_code(fields.get("ExitCode", "")) if ended else None,
        "" if reason in ("None", "(null)") else reason,
        _nodes(fields.get("NodeList", "")),
    )


def cancel_job(job_id: str) -> None:
    """Ends the job, waiting or running. Raises EnvironmentFallsShort."""
    slurm_checks.ask(["scancel", job_id], _environment(os.environ))


# ---- before it is submitted


def _output_dir(source: str, overrides: Sequence[str], array: str | None, recipe: Recipe) -> str:
    """The run folder as typed: with ``{task}`` in it where the tasks of an array differ by it."""
    if array is None or not any(TASK in text for text in overrides):
        return recipe.output_dir
    kept = [text if text.startswith("output_dir=") else checkable([text], array)[0] for text in overrides]
    return load_recipe(source, kept).output_dir


def _check_plan(recipe: Recipe, cluster: Cluster, *, waits: bool) -> None:
    """It fits, and what it needs is there. A job that waits for others may need what they are still to make."""
    try:
        plan = make_plan(recipe, cluster)
        check_memory(plan)
        preflight(recipe, plan)
    except UserError as error:
        if not (waits and error.where.startswith("run:")):
            raise


def _require_environment(cluster: Cluster) -> None:
    for name, value in cluster.environment.items():
        if value is None and name not in os.environ:
            raise UserError(
                f"{name} is to be passed on, but is not set here",
                where=f"cluster {cluster.name}, environment.{name}",
                hint=f"export {name}=..., or take it out of the file",
            )


def _environment(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if not name.startswith("SLURM_") or name in _KEPT_SLURM}


def _write(rendered: Rendered) -> None:
    for folder in rendered.folders:
        folder.mkdir(parents=True, exist_ok=True)
    for source, target in rendered.copies:
        target.unlink(missing_ok=True)
        shutil.copyfile(source, target)


# ---- what Slurm says


def _from_accounting(job_id: str) -> SlurmJob:
    fields = ("State", "ExitCode", "Reason", "NodeList")
    command = [
        "sacct",
        "--noheader",
        "--parsable2",
        "--allocations",
        f"--format={','.join(fields)}",
        f"--jobs={job_id}",
    ]
    try:
        text = slurm_checks.ask(command, _environment(os.environ))
    except EnvironmentFallsShort:
        text = ""
    found = text.splitlines()[-1].split("|") if text.strip() else []
    if len(found) != len(fields):
        raise EnvironmentFallsShort(f"Slurm does not know job {job_id} (any more)", where="slurm")
    return SlurmJob(found[0].split()[0], _exit_code(found[1]), found[2] if found[2] != "None" else "", _nodes(found[3]))


def _exit_code(text: str) -> int | None:
    """Of ``exit:signal``, the way a shell counts."""
    found = re.fullmatch(r"(\d+):(\d+)", text)
    return None if found is None else 128 + int(found[2]) if int(found[2]) else int(found[1])


def _nodes(text: str) -> tuple[str, ...]:
    """Names from Slurm's list; one that abbreviates by brackets is spelled out by Slurm itself."""
    if text in ("", "(null)", "None assigned"):
        return ()
    if "[" not in text:
        return tuple(text.split(","))
    return tuple(slurm_checks.ask(["scontrol", "show", "hostnames", text], _environment(os.environ)).split())
