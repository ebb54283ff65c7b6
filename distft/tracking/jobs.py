"""Which jobs have worked on a run: one JSON line each in ``RUN/jobs.jsonl``, written when a job is submitted, or by
the job itself where it was submitted by plain ``sbatch``. A later line about the same job replaces the one before.
Beside the record what a scheduler may say of such a job; who asks it is ``launch.jobs``.

``distft status | logs | cancel RUN`` read it to know whom to ask. A run started by plain ``distft train`` has none.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Literal, get_args

from distft.common.files import parse_json

FILE = "jobs.jsonl"
_LOCK = ".jobs.lock"
FORGOTTEN = "FORGOTTEN"  # our word for a job of which Slurm knows nothing any more
_TAKEN_BACK = ("CANCELLED", "REVOKED", "STOPPED")  # Slurm's words, and Ray's, for what a person ended
Kind = Literal["slurm", "ray"]
Phase = Literal["pending", "running", "ended", "unknown"]


@dataclass(frozen=True)
class JobRecord:
    """A submitted job: ``address`` is the Ray dashboard's (empty for Slurm), ``submitted`` in Unix seconds.

    ``taken_back``: when ``distft cancel`` did so while it waited. Slurm forgets such a task of an array at once.
    """

    kind: Kind
    job_id: str
    cluster: str
    address: str = ""
    submitted: float = field(default_factory=time.time)
    taken_back: float | None = None


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


@dataclass(frozen=True)
class KnownJob:
    """A job of the run, and what its scheduler says of it."""

    record: JobRecord
    state: JobState

    def __str__(self) -> str:
        """The job by its scheduler and number."""
        return f"{self.record.kind} job {self.record.job_id}"


def counting(jobs: Sequence[KnownJob]) -> KnownJob | None:
    """The job that says how the run is: one that runs, else one that waits, else the newest."""
    ranks = {"running": 0, "pending": 1}
    return min(reversed(jobs), key=lambda job: ranks.get(job.state.phase, 2), default=None)


def add_job(run_dir: Path, record: JobRecord) -> None:
    """Appends the record and syncs it; makes the folder. One write, so that two submitters do not mix their lines."""
    run_dir.mkdir(parents=True, exist_ok=True)
    line = json.dumps(asdict(record), ensure_ascii=False) + "\n"
    file = os.open(run_dir / FILE, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
    try:
        os.write(file, line.encode())
        os.fsync(file)
    finally:
        os.close(file)


@contextlib.contextmanager
def alone(run_dir: Path) -> Iterator[None]:
    """While a job of the run is submitted and recorded: no other process does so. The folder is there; on a file
    system without locks it is only hoped."""
    file = os.open(run_dir / _LOCK, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
    finally:
        os.close(file)


def read_jobs(run_dir: Path) -> list[JobRecord]:
    """The run's jobs, oldest first; a line that cannot be read (torn, or of a later version) is left out."""
    try:
        lines = (run_dir / FILE).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    found = [record for line in lines if (record := _record(line)) is not None]
    return list({(record.kind, record.job_id): record for record in found}.values())


def _record(line: str) -> JobRecord | None:
    names = {each.name for each in fields(JobRecord)}
    try:
        found = parse_json(line)
        record = JobRecord(**{name: value for name, value in found.items() if name in names})
        return record if record.kind in get_args(Kind) else None
    except (ValueError, TypeError, AttributeError):
        return None
