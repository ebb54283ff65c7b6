"""``distft logs``: the run's log lines of all processes in the order of time, and following them to the run's end."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from operator import attrgetter
from pathlib import Path
from typing import TextIO

from distft.common.errors import StoppedOnRequest, UserError, nearest
from distft.common.logging import is_stage
from distft.launch.jobs.backends import backend_of
from distft.launch.jobs.known_jobs import known_jobs
from distft.tracking.jobs import KnownJob, counting, read_jobs
from distft.tracking.run_status import RunStatus, run_status

DRIVER = "driver"
_STAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}[+-]\d{4}")
_BLOCK = 256 * 1024
_JOB_LINES = 1000
_EVERY_S = 0.5
_LOOK_EVERY_S = 2.0
_ASK_EVERY_S = 15.0
_ENDED = ("done", "stopped", "failed", "lost")


@dataclass(frozen=True)
class Selection:
    """Which processes' logs: the driver and rank 0 of every role, unless said otherwise. ``rank`` None: all.
    ``stages``: also what each process set out to do, which are most lines."""

    role: str | None = None
    rank: int | None = 0
    stages: bool = False

    def files(self, run_dir: Path) -> list[Path]:
        """The logs that are there now, by name. Raises UserError for a role or rank that has none among others."""
        there = {path: _process(path) for path in sorted((run_dir / "logs").glob("*.log"))}
        chosen = [path for path, (role, rank) in there.items() if self._has(role, rank)]
        roles = sorted({role for role, _ in there.values()})
        if there and not chosen:
            ranks = sorted(rank for role, rank in there.values() if role == self.role and rank is not None)
            close = nearest(self.role or "", roles)
            hint = f"ranks with logs: {', '.join(map(str, ranks))}" if ranks else f"roles: {', '.join(roles)}"
            hint = f"did you mean {close}? {hint}" if close and not ranks else hint
            raise UserError("no such process has a log", where=f"{self.role} {self.rank}", hint=hint)
        return chosen

    def wants(self, text: str) -> bool:
        """Whether a line is to be seen."""
        return self.stages or not is_stage(text)

    def _has(self, role: str, rank: int | None) -> bool:
        right_role = self.role is None or role == self.role
        return right_role and (self.rank is None or rank is None or rank == self.rank)


def show_logs(run_dir: Path, selection: Selection, num_lines: int, output: TextIO | None = None) -> None:
    """Prints the last lines. Raises UserError where there is no run, role or rank of that name."""
    run_status(run_dir)
    lines = last_lines(run_dir, selection, num_lines)
    _print(lines, output)
    if not lines and num_lines:
        _say_why_nothing(run_dir)


def follow_logs(
    run_dir: Path, selection: Selection, num_lines: int, output: TextIO | None = None, every_s: float = _EVERY_S
) -> int:
    """Prints the last lines and then what comes, over attempts, until the run ends; returns its exit status.

    A run that is waiting or requeued is waited for. What ended without a word (killed) counts as 1.
    """
    status = run_status(run_dir)
    readers: dict[Path, _Reader] = {}
    if not status.attempts and status.jobs:
        # Not begun yet, or in a folder that this machine does not see: the job's own output has it all.
        newest = status.jobs[-1]
        ended_with = backend_of(newest).follow(newest, run_dir, (output or sys.stdout).write)
        if ended_with is not None:
            return ended_with
        _say_why_nothing(run_dir)
    for path in selection.files(run_dir):
        readers[path] = _Reader(path, path.stat().st_size)
    _print(last_lines(run_dir, selection, num_lines, {path: reader.position for path, reader in readers.items()}),
           output)  # fmt: skip
    ended = _End(run_dir)
    while True:
        end = ended.look()
        for path in selection.files(run_dir):
            readers.setdefault(path, _Reader(path))
        new = [line for reader in readers.values() for line in reader.lines() if selection.wants(line.text)]
        _print(_in_order(new), output)
        if end is not None:
            return _exit_status(end)
        time.sleep(every_s)


def _say_why_nothing(run_dir: Path) -> None:
    """To people, beside the output: where the run is, while nothing of it has been logged."""
    job = counting(known_jobs(run_dir))
    if job is None:
        print("distft: nothing has been logged yet", file=sys.stderr)
        return
    why = f" ({job.state.detail})" if job.state.detail else ""
    print(f"distft: nothing has been logged yet: {job} is {job.state.said}{why}", file=sys.stderr)


def last_lines(run_dir: Path, selection: Selection, num_lines: int, sizes: dict[Path, int] | None = None) -> list[str]:
    """The last lines of all chosen logs together, by time; of a job that never got so far, its own output."""
    files = selection.files(run_dir)
    if not files:
        return _job_lines(run_dir)[-num_lines:] if num_lines else []
    lines = [line for path in files for line in _tail(path, num_lines, (sizes or {}).get(path), selection)]
    return _in_order(lines)[-num_lines:] if num_lines else []


def _job_lines(run_dir: Path) -> list[str]:
    """What the newest job printed: Slurm's lies in the run folder, Ray is asked for its."""
    jobs = read_jobs(run_dir)
    outputs = sorted((run_dir / "logs").glob("slurm-*.out"), key=lambda path: path.stat().st_mtime)
    if outputs and (not jobs or jobs[-1].kind == "slurm"):
        return [line.text for line in _tail(outputs[-1], _JOB_LINES, None, Selection(stages=True))]
    return backend_of(jobs[-1]).output(jobs[-1]).splitlines() if jobs else []


class _End:
    """Looks, not too often, whether the run has ended and nobody will start it again."""

    def __init__(self, run_dir: Path) -> None:
        self._run_dir = run_dir
        self._known: tuple[KnownJob, ...] = ()
        self._look_at = self._ask_at = 0.0

    def look(self) -> RunStatus | None:
        now = time.monotonic()
        if now < self._look_at:
            return None
        self._look_at = now + _LOOK_EVERY_S
        status = run_status(self._run_dir, self._known)
        if status.state == "waiting" and not status.jobs:
            return None  # a process that is starting right now
        if status.state in _ENDED or now >= self._ask_at:
            self._ask_at = now + _ASK_EVERY_S
            self._known = known_jobs(self._run_dir)
            status = run_status(self._run_dir, self._known)
        requeued = status.state in ("stopped", "lost") and status.job is not None and status.job.active
        return status if status.state in _ENDED and not requeued else None


def _exit_status(status: RunStatus) -> int:
    if status.exit:
        told = status.exit.get("exit_status")
        return told if isinstance(told, int) else 1
    return {"done": 0, "stopped": StoppedOnRequest.exit_status}.get(status.state, 1)


# ---- lines


@dataclass(frozen=True)
class _Line:
    """A log line; one without a time of its own (a traceback) has that of the line before it."""

    moment: float
    text: str


@dataclass
class _Reader:
    """Reads what is added to a log, whole lines only."""

    path: Path
    position: int = 0
    moment: float = 0.0
    rest: bytes = field(default=b"")

    def lines(self) -> list[_Line]:
        try:
            with open(self.path, "rb") as file:
                file.seek(self.position)
                new = file.read()
        except OSError:
            return []
        self.position += len(new)
        whole, found, self.rest = (self.rest + new).rpartition(b"\n")
        return list(_stamped(whole.decode(errors="replace").splitlines(), self)) if found else []


def _tail(path: Path, num_lines: int, size: int | None, selection: Selection) -> list[_Line]:
    """The last wanted lines of a log (of its first ``size`` bytes)."""
    kept: list[str] = []
    try:
        with open(path, "rb") as file:
            start = size if size is not None else path.stat().st_size
            rest = b""  # of a line that begins before what was read
            while start > 0 and len(kept) < num_lines:
                end, start = start, max(0, start - _BLOCK)
                file.seek(start)
                block = file.read(end - start) + rest
                rest, newline, whole = block.partition(b"\n") if start else (b"", b"", block)
                if start and not newline:
                    rest = block
                kept = [*filter(selection.wants, whole.decode(errors="replace").splitlines()), *kept]
    except OSError:
        return []
    return list(_stamped(kept[-num_lines:] if num_lines else [], _Reader(path)))


def _stamped(lines: Iterable[str], reader: _Reader) -> Iterator[_Line]:
    for text in lines:
        found = _STAMP.match(text)
        if found:
            reader.moment = datetime.strptime(found[0], "%Y-%m-%dT%H:%M:%S.%f%z").timestamp()
        yield _Line(reader.moment, text)


def _in_order(lines: Iterable[_Line]) -> list[str]:
    """By time; the sort is stable, so a process's own lines stay in order."""
    return [line.text for line in sorted(lines, key=attrgetter("moment"))]


def _print(lines: Iterable[str], output: TextIO | None) -> None:
    out = output or sys.stdout
    for line in lines:
        out.write(line + "\n")
    out.flush()


def _process(path: Path) -> tuple[str, int | None]:
    """(role, rank) of a log's name; the driver and what is not a rank's have no rank."""
    role, _, rank = path.stem.rpartition("-")
    return (role, int(rank)) if role and rank.isdecimal() else (path.stem, None)
