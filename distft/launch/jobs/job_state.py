"""What Slurm or Ray says of a job that works on a run. Each is asked only where the run has such a job."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from distft.common.errors import DistftError
from distft.launch.jobs.job_record import JobRecord

Phase = Literal["pending", "running", "ended", "unknown"]
# Slurm's states in which a job still has its turn before it, and those in which it has nodes.
_PENDING = frozenset({"PENDING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT", "CONFIGURING"})
_RUNNING = frozenset({"RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "SIGNALING", "STAGE_OUT", "RESIZING"})


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


def job_state(record: JobRecord) -> JobState:
    """Asks the scheduler. One that cannot be asked, or has forgotten the job, leaves it ``unknown``."""
    try:
        return _ray(record) if record.kind == "ray" else _slurm(record)
    except (DistftError, OSError) as error:
        return JobState("unknown", "unknown", str(error).splitlines()[0])


def job_output(record: JobRecord) -> str:
    """What the job itself printed, where its scheduler keeps that; of Slurm, see the run's folder."""
    if record.kind != "ray":
        return ""
    from distft.launch.ray_job import job_output

    return job_output(record)


def follow_job(record: JobRecord, run_dir: Path, write: Callable[[str], object]) -> int:
    """Writes what a Ray job prints until it ends, and returns the run's exit status. Raises EnvironmentFallsShort."""
    from distft.launch.ray_job import follow

    return follow(record.address, record.job_id, run_dir, write)


def kill_job(record: JobRecord) -> None:
    """Has the scheduler end the job, waiting or running. Raises DistftError."""
    if record.kind == "ray":
        from distft.launch.ray_job import stop

        stop(record)
    else:
        from distft.launch.slurm import cancel_job

        cancel_job(record.job_id)


def _slurm(record: JobRecord) -> JobState:
    from distft.launch import slurm

    job = slurm.job_state(record.job_id)
    name = job.state.split()[0].rstrip("+") if job.state else ""
    phase: Phase = "pending" if name in _PENDING else "running" if name in _RUNNING else "ended" if name else "unknown"
    return JobState(phase, job.state or "unknown", job.reason or ", ".join(job.nodes), job.exit_code)


def _ray(record: JobRecord) -> JobState:
    from distft.launch.ray_job import job_state

    return job_state(record)
