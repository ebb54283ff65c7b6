"""Who runs a run's jobs, Slurm or Ray: what it says of them, and what it can be told. Each is asked, and imported, only
where the run has such a job."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from distft.common.errors import DistftError
from distft.tracking.jobs import JobRecord, JobState


class JobBackend(Protocol):
    """A scheduler. What cannot be asked raises DistftError or OSError."""

    def state(self, record: JobRecord) -> JobState:
        """What has become of the job."""
        ...

    def active(self, records: Sequence[JobRecord]) -> Mapping[str, JobState]:
        """Those of the jobs that wait or run, by id, in one question; ``records`` oldest first, one at least."""
        ...

    def output(self, record: JobRecord) -> str:
        """What the job itself printed; "" where that lies in the run's folder."""
        ...

    def follow(self, record: JobRecord, run_dir: Path, write: Callable[[str], object]) -> int | None:
        """Writes what the job prints until it ends; the run's exit status. None where that lies in the run's folder."""
        ...

    def kill(self, record: JobRecord) -> None:
        """Ends the job, waiting or running."""
        ...


def backend_of(record: JobRecord) -> JobBackend:
    """The scheduler that has the job."""
    if record.kind == "ray":
        from distft.launch.on_ray.job import RayJobs

        return RayJobs()
    from distft.launch.slurm.queue import SlurmJobs

    return SlurmJobs()


def job_state(record: JobRecord) -> JobState:
    """Asks the scheduler. One that cannot be asked leaves it ``unknown``."""
    try:
        return backend_of(record).state(record)
    except (DistftError, OSError) as error:
        return JobState("unknown", "unknown", str(error).splitlines()[0])


def active_jobs(records: Sequence[JobRecord]) -> Mapping[str, JobState]:
    """Those of one scheduler's jobs that wait or run, by id; none where it cannot be asked."""
    try:
        return backend_of(records[0]).active(records) if records else {}
    except (DistftError, OSError):
        return {}
