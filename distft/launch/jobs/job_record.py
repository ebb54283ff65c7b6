"""Which jobs have worked on a run: one JSON line each in ``RUN/jobs.jsonl``, written when a job is submitted.

``distft status | logs | cancel RUN`` read it to know whom to ask. A run started by plain ``distft train`` has none.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Literal, get_args

FILE = "jobs.jsonl"
Kind = Literal["slurm", "ray"]


@dataclass(frozen=True)
class JobRecord:
    """A submitted job: ``address`` is the Ray dashboard's (empty for Slurm), ``submitted`` in Unix seconds."""

    kind: Kind
    job_id: str
    cluster: str
    address: str = ""
    submitted: float = field(default_factory=time.time)


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


def read_jobs(run_dir: Path) -> list[JobRecord]:
    """The run's jobs, oldest first; a line that cannot be read (torn, or of a later version) is left out."""
    try:
        lines = (run_dir / FILE).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    return [record for line in lines if (record := _record(line)) is not None]


def _record(line: str) -> JobRecord | None:
    names = {each.name for each in fields(JobRecord)}
    try:
        found = json.loads(line)
        record = JobRecord(**{name: value for name, value in found.items() if name in names})
        return record if record.kind in get_args(Kind) else None
    except (ValueError, TypeError, AttributeError):
        return None
