"""What Slurm or Ray says of a job that works on a run. Each is asked only where the run has such a job."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from distft.common.errors import DistftError
from distft.launch.jobs.job_record import JobRecord

if TYPE_CHECKING:
    from distft.launch.slurm.queue import SlurmJob

Phase = Literal["pending", "running", "ended", "unknown"]
FORGOTTEN = "FORGOTTEN"  # our word for a job of which Slurm knows nothing any more
_TAKEN_BACK = ("CANCELLED", "REVOKED", "STOPPED")  # Slurm's words, and Ray's, for what a person ended


@dataclass(frozen=True)
class JobState:
    """``said``: in the scheduler's own words; ``detail``: why it waits, where it runs, how it ended."""

    phase: Phase
    said: str
    detail: str = ""
    exit_code: int | None = None

    @property
    def active(self) -> bool:
        """Whether more may come of it."""
        return self.phase in ("pending", "running")

    @property
    def cancelled(self) -> bool:
        """Whether a person ended it."""
        return self.phase == "ended" and self.said.startswith(_TAKEN_BACK)


def job_state(record: JobRecord) -> JobState:
    """Asks the scheduler. One that cannot be asked leaves it ``unknown``."""
    try:
        return _ray(record) if record.kind == "ray" else _slurm(record)
    except (DistftError, OSError) as error:
        return JobState("unknown", "unknown", str(error).splitlines()[0])


def job_output(record: JobRecord) -> str:
    """What the job itself printed, where its scheduler keeps that; of Slurm, see the run's folder."""
    if record.kind != "ray":
        return ""
    from distft.launch.on_ray.job import job_output

    return job_output(record)


def follow_job(record: JobRecord, run_dir: Path, write: Callable[[str], object]) -> int:
    """Writes what a Ray job prints until it ends, and returns the run's exit status. Raises EnvironmentFallsShort."""
    from distft.launch.on_ray.job import follow

    return follow(record.address, record.job_id, run_dir, write)


def kill_job(record: JobRecord) -> None:
    """Has the scheduler end the job, waiting or running. Raises DistftError."""
    if record.kind == "ray":
        from distft.launch.on_ray.job import stop

        stop(record)
    else:
        from distft.launch.slurm.queue import cancel_job

        cancel_job(record.job_id)


def active_slurm_jobs(records: Sequence[JobRecord]) -> dict[str, JobState]:
    """Those of the Slurm jobs that wait or run, by id; none where Slurm cannot be asked."""
    from distft.launch.slurm.queue import active_jobs

    try:
        return {name: _of_slurm(job) for name, job in active_jobs([record.job_id for record in records]).items()}
    except (DistftError, OSError):
        return {}


def _slurm(record: JobRecord) -> JobState:
    from distft.launch.slurm.queue import JobForgotten, job_state

    try:
        return _of_slurm(job_state(record.job_id))
    except JobForgotten as error:
        if record.taken_back is not None:
            return JobState("ended", "CANCELLED", "taken back while it waited")
        return JobState("ended", FORGOTTEN, error.what)


def _of_slurm(job: SlurmJob) -> JobState:
    from distft.launch.slurm.queue import PENDING, RUNNING

    name = job.state.split()[0].rstrip("+") if job.state else ""
    phase: Phase = "pending" if name in PENDING else "running" if name in RUNNING else "ended" if name else "unknown"
    return JobState(phase, job.state or "unknown", job.reason or ", ".join(job.nodes), job.exit_code)


def _ray(record: JobRecord) -> JobState:
    from distft.launch.on_ray.job import job_state

    return job_state(record)
