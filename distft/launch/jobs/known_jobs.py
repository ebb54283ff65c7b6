"""The jobs that a run has, as their schedulers see them now: those that wait or run, and the newest."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import get_args

from distft.launch.jobs.backends import active_jobs, job_state
from distft.tracking.jobs import JobRecord, Kind, KnownJob, read_jobs


def known_jobs(run_dir: Path) -> tuple[KnownJob, ...]:
    """The newest job whatever has become of it, and those before it that have not ended; oldest first.

    A scheduler that cannot be asked leaves the newest one ``unknown``.
    """
    records = read_jobs(run_dir)
    return (*_still_active(records[:-1]), *(KnownJob(record, job_state(record)) for record in records[-1:]))


def _still_active(records: Sequence[JobRecord]) -> Iterator[KnownJob]:
    states = {kind: active_jobs([record for record in records if record.kind == kind]) for kind in get_args(Kind)}
    for record in records:
        state = states[record.kind].get(record.job_id)
        if state is not None and state.active:
            yield KnownJob(record, state)
