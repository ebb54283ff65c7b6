"""One job a run: those that a new one must wait for, or that are in its way."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path

from distft.checkpoint.lease import living, refuse_if_held
from distft.common.errors import UserError
from distft.common.waiting import wait_until
from distft.launch.jobs.known_jobs import known_jobs
from distft.tracking.jobs import KnownJob
from distft.tracking.run_status import going_on_in

_LOOK_EVERY_S = 2.0


def former_jobs(run_dirs: Iterable[Path], *, replace: bool, after: Sequence[str] = ()) -> dict[Path, list[KnownJob]]:
    """The jobs of these runs that wait or run, but for those that the new one comes ``after``.

    A pipeline's own folder comes before those of its stages. Raises UserError where there are some, and they are not
    to be replaced; and where a process that is no job of ours holds a run.
    """
    found = {}
    replaced: list[Path] = []  # those whose job runs: of a pipeline it holds the folder of a stage
    for folder in run_dirs:
        active = [job for job in known_jobs(folder) if job.state.active]
        former = [job for job in active if job.record.job_id not in after]
        if former and not replace:
            raise _already(folder, former)
        if not active and not after and not any(folder.is_relative_to(whole) for whole in replaced):
            refuse_if_held(folder)
        if former:
            found[folder] = former
        if any(job.state.phase == "running" for job in former):
            replaced.append(folder)
    return found


def _already(folder: Path, former: Sequence[KnownJob]) -> UserError:
    names = ", ".join(f"{job}: {job.state.said}" for job in former)
    return UserError(
        f"this run has a job that has not ended ({names}), and one at a time is enough", where=str(folder),
        hint=f"distft status {folder}; distft cancel {folder}; or --replace: it stops, and the new one goes on from "
        "its checkpoint",
    )  # fmt: skip


def wait_for_end(run_dir: Path) -> None:
    """Until no job of the run is left, and nobody holds its folder, or that of a stage of it."""

    def gone() -> bool:
        return not any(job.state.active for job in known_jobs(run_dir)) and living(going_on_in(run_dir)) is None

    wait_until(gone, math.inf, every_s=_LOOK_EVERY_S)
