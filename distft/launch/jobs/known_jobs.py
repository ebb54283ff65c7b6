"""The jobs that a run has, as their schedulers see them now: those that wait or run, and the newest."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from distft.launch.jobs.job_record import JobRecord, read_jobs
from distft.launch.jobs.job_state import JobState, active_slurm_jobs, job_state


@dataclass(frozen=True)
class KnownJob:
    """A job of the run, and what its scheduler says of it."""

    record: JobRecord
    state: JobState

    def __str__(self) -> str:
        """The job by its scheduler and number."""
        return f"{self.record.kind} job {self.record.job_id}"


def known_jobs(run_dir: Path) -> tuple[KnownJob, ...]:
    """The newest job whatever has become of it, and those before it that have not ended; oldest first.

    A scheduler that cannot be asked leaves the newest one ``unknown``.
    """
    records = read_jobs(run_dir)
    return (*_still_active(records[:-1]), *(KnownJob(record, job_state(record)) for record in records[-1:]))


def counting(jobs: Sequence[KnownJob]) -> KnownJob | None:
    """The job that says how the run is: one that runs, else one that waits, else the newest."""
    ranks = {"running": 0, "pending": 1}
    return min(reversed(jobs), key=lambda job: ranks.get(job.state.phase, 2), default=None)


def _still_active(records: Sequence[JobRecord]) -> Iterator[KnownJob]:
    states = active_slurm_jobs([record for record in records if record.kind == "slurm"])
    # Ray itself refuses a run's second job, so of Ray's only the last one can be active.
    newest_of_ray = next((record for record in reversed(records) if record.kind == "ray"), None)
    for record in records:
        state = job_state(record) if record is newest_of_ray else states.get(record.job_id)
        if state is not None and state.active:
            yield KnownJob(record, state)
