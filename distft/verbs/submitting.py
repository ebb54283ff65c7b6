"""What ``distft submit`` does and prints: one job a run, and what to do next."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distft.common.errors import UserError
from distft.config.load import load_recipe
from distft.config.recipe import Recipe
from distft.launch.jobs.cancel import stop
from distft.launch.jobs.former_jobs import former_jobs, wait_for_end
from distft.launch.preflight.checks import check_output_dir
from distft.launch.run_folder import is_finished, require_same_run
from distft.launch.slurm.array_tasks import combinations, of_first
from distft.tracking.jobs import KnownJob

if TYPE_CHECKING:
    from distft.launch.on_ray.submission import Package
    from distft.launch.slurm.submission import Submission

INTERRUPTED = 130
_ONLY_SLURM = ("after", "array", "sweep", "slurm_options")
_SHOWN = 40  # tasks of a sweep


def submit(arguments: argparse.Namespace) -> int:
    """Submits the job; of one that is followed the exit status. Raises UserError, EnvironmentFallsShort."""
    recipe = load_recipe(arguments.recipe, of_first(arguments.overrides, arguments.sweep, arguments.array))
    check_output_dir(Path(recipe.output_dir))
    run_dir = Path(recipe.output_dir).absolute()
    # What will be in the folder of a job that waits for others, or of another task, is not known now.
    later = arguments.dry_run or arguments.after or arguments.array or arguments.sweep
    if not later and _is_finished(recipe, run_dir):
        print(json.dumps({"run_dir": str(run_dir), "state": "finished"}) if arguments.json
              else f"{recipe.name}: already finished, the model is in {run_dir / 'final'}")  # fmt: skip
        return 0
    return _submit_ray(arguments, recipe, run_dir) if arguments.target == "ray" else _submit_slurm(arguments)


def _is_finished(recipe: Recipe, run_dir: Path) -> bool:
    """Raises UserError where the folder holds another run."""
    if recipe.checkpoint.resume == "never":
        return False
    require_same_run(recipe, run_dir)
    return is_finished(recipe, run_dir)


# ---- Slurm


def _submit_slurm(arguments: argparse.Namespace) -> int:
    from distft.launch.jobs.logs import Selection, follow_logs
    from distft.launch.slurm import submission as slurm

    if arguments.cluster is None:
        raise UserError("needs a cluster file", where="submit slurm", hint="--cluster slurm-cpu, say")
    prepared = slurm.prepare(slurm.Wish(
        arguments.recipe, tuple(arguments.overrides), arguments.cluster, tuple(arguments.after), arguments.array,
        tuple(arguments.sweep), tuple(arguments.slurm_options),
    ))  # fmt: skip
    if arguments.dry_run:
        print(json.dumps(_answer(prepared)) if arguments.json else prepared.shell)
        return 0
    former = former_jobs(prepared.run_dirs, replace=arguments.replace, after=arguments.after)
    require_slurm_jobs(job for jobs in former.values() for job in jobs)
    once_ended = dict.fromkeys(job.record.job_id for jobs in former.values() for job in jobs)
    submission = slurm.submit(prepared, once_ended=tuple(once_ended))
    stopped = [stop(folder, jobs) for folder, jobs in former.items()]
    if arguments.json:
        print(json.dumps(_answer(submission)))
        return 0
    print(submission.job_id, flush=True)
    print("\n".join([*stopped, *_next(submission)]), file=sys.stderr, flush=True)
    return follow_logs(submission.run_dirs[0], Selection(), 0) if arguments.follow else 0


def require_slurm_jobs(former: Iterable[KnownJob]) -> None:
    """Those which a Slurm job is to replace. Raises UserError where one is of another scheduler."""
    for job in former:
        if job.record.kind != "slurm":
            hint = "distft cancel it first"
            raise UserError(f"{job} cannot be waited for by a Slurm job", where="--replace", hint=hint)


def _answer(submission: Submission) -> dict[str, Any]:
    return {
        "job_id": submission.job_id, "command": list(submission.command), "run_dir": str(submission.run_dirs[0]),
        "run_dirs": list(map(str, submission.run_dirs)), "tasks": list(submission.tasks),
        "sweep": [list(values) for values in combinations(submission.asked.sweep)],
        "warnings": list(submission.warnings),
    }  # fmt: skip


def _next(submission: Submission) -> list[str]:
    """For people: what it is, where, and what to do with it."""
    asked = submission.asked
    what = f"{len(submission.run_dirs)} tasks of " if submission.tasks else ""
    lines = [f"distft: warning: {text}" for text in submission.warnings]
    lines.append(f"distft: submitted {what}{asked.name} as Slurm job {submission.job_id}, {asked.cluster.nodes} nodes "
                 f"of {asked.cluster.name}")  # fmt: skip
    values = combinations(asked.sweep)
    for number, folder in list(zip(submission.tasks, submission.run_dirs, strict=False))[:_SHOWN]:
        lines.append(f"  task {number}: {folder}{': ' if values else ''}{' '.join(values[number]) if values else ''}")
    return [*lines, _verbs(submission.run_dirs[0])]


def _verbs(run_dir: Path) -> str:
    run = _typed(run_dir)
    return f"  distft status {run}; distft logs {run} --follow; distft cancel {run}"


def _typed(path: Path) -> str:
    here = Path.cwd()
    return shlex.quote(str(path.relative_to(here) if path.is_relative_to(here) else path))


# ---- Ray


def _submit_ray(arguments: argparse.Namespace, recipe: Recipe, run_dir: Path) -> int:
    from distft.launch.on_ray.submission import packed

    return submit_to_ray(arguments, packed(recipe, arguments.recipe, arguments.overrides), [run_dir])


def submit_to_ray(arguments: argparse.Namespace, package: Package, run_dirs: Sequence[Path]) -> int:
    """Submits a package as one job, which the first of these run folders keeps; none of them may have another. The exit
    status. Raises UserError, EnvironmentFallsShort."""
    from distft.launch.on_ray.submission import ray_job

    for option in _ONLY_SLURM:
        if getattr(arguments, option):
            raise UserError("is an option of Slurm jobs", where=f"--{option.removesuffix('_options')}")
    cluster = arguments.cluster or "ray-existing"
    job = ray_job(package, cluster, os.environ, Path.cwd(), dry_run=arguments.dry_run)
    if arguments.dry_run:
        print(json.dumps(job.shown()) if arguments.json else json.dumps(job.shown(), indent=1, ensure_ascii=False))
        return 0
    from distft.launch.on_ray.job import follow
    from distft.launch.on_ray.job import submit as submit_job

    for folder, former in former_jobs(run_dirs, replace=arguments.replace).items():
        print(stop(folder, former), file=sys.stderr)
        wait_for_end(folder)
    job_id = submit_job(job)
    print(json.dumps(job.shown(job_id)) if arguments.json else job_id, flush=True)
    if arguments.json:
        return 0
    print(f"distft: submitted {package.name} as Ray job {job_id} at {job.address}\n{_verbs(job.run_dir)}",
          file=sys.stderr)  # fmt: skip
    if arguments.follow is False:
        return 0
    try:
        return follow(job.address, job_id, job.run_dir)
    except KeyboardInterrupt:
        print(f"\ndistft: the job goes on; stop it with: distft cancel {_typed(job.run_dir)}", file=sys.stderr)
        return INTERRUPTED
