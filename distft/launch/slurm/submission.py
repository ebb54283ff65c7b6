"""Runs as Slurm jobs: checked on the login node and submitted by argv.

No torch, no ray: a login node answers in a second.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from distft.common.errors import EnvironmentFallsShort, UserError
from distft.config.cluster import Cluster, load_cluster
from distft.config.load import load_recipe, said_in_full
from distft.config.recipe import Recipe
from distft.launch.node.environment import exported, withheld
from distft.launch.preflight.checks import check_disk, check_memory, check_output_dir, preflight
from distft.launch.slurm import checks, container_checks
from distft.launch.slurm.array_tasks import TASK, array_of, of_task, tasks
from distft.launch.slurm.options import (
    Asked,
    Rendered,
    batch_script,
    render,
    run_dirs,
    script_options,
    with_options,
)
from distft.launch.slurm.queue import login_environment
from distft.planning.generation import installed_vllm
from distft.planning.plan import Plan, make_plan
from distft.planning.rates import read_rates
from distft.tracking.jobs import JobRecord, add_job, alone, read_jobs


@dataclass(frozen=True)
class Wish:
    """What a person wants submitted. ``options``: keys of the cluster file's ``slurm`` section, ``key=value`` each;
    ``waits``: what it needs is made by jobs that are still to be submitted; the rest as in ``Asked``."""

    source: str
    overrides: tuple[str, ...] = ()
    cluster: str = "slurm-cpu"
    after: tuple[str, ...] = ()
    array: str | None = None
    sweep: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    waits: bool = False


@dataclass(frozen=True)
class Checked:
    """A recipe that may start, with its plan on the cluster, and what is to be said about it."""

    recipe: Recipe
    plan: Plan
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class Submission:
    """A job that can be submitted, and, once it is, its id. ``shell``: all of it as a line to paste; ``run_dirs``: the
    run folder, or those of the tasks, whose numbers are ``tasks``; ``jobs_before``: how many jobs each has had;
    ``warnings`` are for people."""

    asked: Asked
    rendered: Rendered
    run_dirs: tuple[Path, ...]
    tasks: tuple[int, ...] = ()
    jobs_before: tuple[int, ...] = ()
    checked: tuple[Checked, ...] = ()
    warnings: tuple[str, ...] = ()
    job_id: str | None = None

    @property
    def command(self) -> tuple[str, ...]:
        """What is run."""
        return self.rendered.command

    @property
    def shell(self) -> str:
        """What is run, for a shell."""
        return self.rendered.shell


def prepare(wish: Wish) -> Submission:
    """How the wish would be submitted: that needs neither Slurm nor the cluster, nor the secrets that will be passed
    on, nor room on the disk.

    Raises UserError or EnvironmentFallsShort: one message for the first thing that is wrong.
    """
    cluster, folder = _slurm_cluster(wish), Path.cwd()
    array = array_of(wish.sweep, wish.array)
    numbers = tuple(tasks(array)) if array else ()
    recipes = _recipes(wish, numbers)
    overrides, output_dir = _with_run_folder(wish, recipes[0])
    overrides = (*overrides, *said_in_full(recipes[0]))
    asked = Asked(
        recipes[0].name, str(folder / output_dir), wish.source, overrides, cluster, wish.cluster, folder,
        exported=exported(os.environ, cluster), after=wish.after, array=array, sweep=wish.sweep,
        outlives_nodes=recipes[0].recovery.outlives_nodes,
    )  # fmt: skip
    folders = tuple(map(Path, run_dirs(asked)))
    checked = [one for recipe in recipes for one in _checked(recipe, cluster, waits=bool(wish.after) or wish.waits)]
    return Submission(
        asked,
        _rendered(asked),
        run_dirs=folders,
        tasks=numbers if TASK in asked.run_dir else (),
        jobs_before=tuple(len(read_jobs(one)) for one in folders),
        checked=tuple(checked),
        warnings=tuple(dict.fromkeys([*_withheld(cluster), *(text for one in checked for text in one.warnings)])),
    )


def prepare_program(name: str, run_dir: Path, program: Sequence[str], wish: Wish) -> Submission:
    """How a job of one process, Python with these words, would be submitted: on one node of the wish's cluster, with
    one of its GPUs if it has any; of the wish ``after`` and ``options`` count, too. Raises as ``prepare``."""
    cluster, folder = _slurm_cluster(wish), Path.cwd()
    node = cluster.node.model_copy(update={"gpus": min(1, int(cluster.node.gpus))})
    slurm = cluster.slurm and cluster.slurm.model_copy(update={"spare_nodes": 0})
    cluster = cluster.model_copy(update={"nodes": 1, "node": node, "slurm": slurm})
    asked = Asked(
        name, str(folder / run_dir), "", (), cluster, wish.cluster, folder, exported=exported(os.environ, cluster),
        after=wish.after, program=tuple(program),
    )  # fmt: skip
    before = len(read_jobs(Path(asked.run_dir)))
    return Submission(
        asked, _rendered(asked), run_dirs=(Path(asked.run_dir),), jobs_before=(before,),
        warnings=tuple(_withheld(cluster)),
    )  # fmt: skip


def submit(prepared: Submission, *, once_ended: Sequence[str] = (), after: Sequence[str] = ()) -> Submission:
    """Submits it; it starts once the jobs ``once_ended`` have ended, and those ``after`` which it comes ended well.

    Raises UserError or EnvironmentFallsShort, also for what Slurm itself refuses; and where another job has been
    submitted for the same run meanwhile.
    """
    asked = replace(prepared.asked, once_ended=tuple(once_ended), after=(*prepared.asked.after, *after))
    prepared = replace(prepared, asked=asked, rendered=_rendered(asked))
    cluster, environment = asked.cluster, login_environment(os.environ)
    _require_environment(cluster)
    container_checks.check(cluster)
    for one in prepared.run_dirs:
        check_output_dir(one)
    for one_task in prepared.checked:
        check_disk(one_task.recipe, one_task.plan)
    checks.check(cluster, checks.kinds(checks.ask(checks.SINFO, environment)))
    _write(prepared.rendered)
    with _alone_in(prepared.run_dirs, prepared.jobs_before):
        job_id = checks.ask(prepared.command, environment).strip().partition(";")[0]
        if not re.fullmatch(r"\d+", job_id):
            raise EnvironmentFallsShort(f"sbatch printed {job_id!r}, which is no job id", where="slurm")
        for number, one in enumerate(prepared.run_dirs):
            task = f"_{prepared.tasks[number]}" if prepared.tasks else ""
            add_job(one, JobRecord(kind="slurm", job_id=f"{job_id}{task}", cluster=cluster.name))
    return replace(prepared, job_id=job_id)


def train_in_allocation(recipe: Recipe, recipe_source: str, overrides: Sequence[str], cluster_name: str) -> int:
    """Runs the recipe on the nodes of the allocation in which this process is, as a job would; its exit status."""
    cluster, folder = load_cluster(cluster_name), Path.cwd()
    run_dir = str(folder / recipe.output_dir)
    asked = Asked(
        recipe.name, run_dir, recipe_source, tuple(overrides), cluster, cluster_name, folder,
        outlives_nodes=recipe.recovery.outlives_nodes,
    )  # fmt: skip
    words = [*script_options(asked, sys.executable), recipe_source, "--cluster", cluster_name, *overrides]
    return subprocess.call(["bash", str(batch_script()), *words])


# ---- before it is submitted


def _slurm_cluster(wish: Wish) -> Cluster:
    cluster = load_cluster(wish.cluster)
    if cluster.kind != "slurm":
        raise UserError(
            f"is of kind {cluster.kind}", where=f"cluster {cluster.name}", hint="kind: slurm is needed here"
        )
    return with_options(cluster, wish.options)


def _rendered(asked: Asked) -> Rendered:
    return render(asked, script=batch_script(), python=sys.executable)


def _recipes(wish: Wish, numbers: Sequence[int]) -> list[Recipe]:
    """The recipe, or those of the tasks: of a sweep all, of an array that of the first."""
    checked = numbers if wish.sweep else numbers[:1]
    return [load_recipe(wish.source, of_task(wish.overrides, wish.sweep, number)) for number in checked] or [
        load_recipe(wish.source, wish.overrides)
    ]


def _with_run_folder(wish: Wish, recipe: Recipe) -> tuple[tuple[str, ...], str]:
    """The overrides and the run folder as typed, with ``{task}`` in it where the tasks of an array differ by it. The
    tasks of a sweep always do."""
    if any(text.startswith("output_dir=") and TASK in text for text in wish.overrides):
        kept = [text if text.startswith("output_dir=") else text.replace(TASK, "0") for text in wish.overrides]
        return wish.overrides, load_recipe(wish.source, kept).output_dir
    if not wish.sweep:
        return wish.overrides, recipe.output_dir
    own = f"{recipe.output_dir.rstrip('/')}-{TASK}"
    return (*(text for text in wish.overrides if not text.startswith("output_dir=")), f"output_dir={own}"), own


def _checked(recipe: Recipe, cluster: Cluster, *, waits: bool) -> Iterator[Checked]:
    """It fits, and what it needs is there. One that waits for other jobs may need what they are still
    to make: then there is none yet."""
    try:
        plan = make_plan(recipe, cluster, rates=read_rates(cluster, ""), vllm=installed_vllm())
        check_memory(plan)
        yield Checked(recipe, plan, preflight(recipe, plan, to_start=False))
    except UserError as error:
        if not (waits and error.where.startswith("run:")):
            raise


def _withheld(cluster: Cluster) -> Iterator[str]:
    for name in withheld(os.environ, cluster):
        yield (f"{name} has a password in it and is not passed on; `environment: {{{name}: null}}` in the cluster file "
               "does it")  # fmt: skip


def _require_environment(cluster: Cluster) -> None:
    for name, value in cluster.environment.items():
        if value is None and name not in os.environ:
            raise UserError(
                f"{name} is to be passed on, but is not set here",
                where=f"cluster {cluster.name}, environment.{name}",
                hint=f"export {name}=..., or take it out of the file",
            )


def _write(rendered: Rendered) -> None:
    for folder in rendered.folders:
        folder.mkdir(parents=True, exist_ok=True)
    for source, target in rendered.copies:
        target.unlink(missing_ok=True)
        shutil.copyfile(source, target)


@contextmanager
def _alone_in(folders: Sequence[Path], seen: Sequence[int]) -> Iterator[None]:
    """No other submission for these runs at the same time; and none since so many of their jobs were ``seen``."""
    with ExitStack() as stack:
        for folder, number in zip(folders, seen, strict=True):
            stack.enter_context(alone(folder))
            jobs = read_jobs(folder)
            if len(jobs) != number:
                raise UserError(f"{jobs[-1].kind} job {jobs[-1].job_id} was submitted for this run just now",
                                where=str(folder), hint=f"distft status {folder}")  # fmt: skip
        yield
