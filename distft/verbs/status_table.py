"""What ``distft status`` shows: the run folder and the schedulers, as a table for people."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from distft.common.errors import harmless
from distft.launch.jobs.known_jobs import known_jobs
from distft.tracking.jobs import JobRecord, JobState
from distft.tracking.progress import duration, headlines, size_of
from distft.tracking.run_status import Attempt, RunStatus, run_status

COLOURS = {"running": "green", "done": "green", "failed": "red", "lost": "red", "stopped": "yellow"}
_MEANING = {
    "waiting": "the job has not started yet",
    "stopping": "asked to stop; a checkpoint comes first",
    "stopped": "the same command goes on",
    "lost": "nobody holds the run and nobody said why it ended: killed? The same command goes on",
}
# How an attempt ended: by its event, or, where that is a stop, by the exit status.
_ENDED = {"done": "done", "failure": "failed", "stop": "stopped", "rollback": "went back before a spike"}
_STOPPED = {2: "ended by wrong input", 3: "ended by what the machine lacks", 130: "stopped at once"}
_NEVER_BEGAN = {
    "stopped": "its job was taken back before the run began; the same command starts it",
    "failed": "its job ended before the run began: distft logs shows what it printed",
    "lost": "its job is gone and the run never began; the same command starts it",
}


def status_of(run_dir: Path) -> RunStatus:
    """Asks the schedulers of the run's jobs, and reads the folder. Raises UserError where there is no run."""
    return run_status(run_dir, known_jobs(run_dir))


def table(status: RunStatus) -> Table:
    """All of it, of one run."""
    shown = Table(show_header=False, box=None, pad_edge=False)
    shown.add_column(style="bold", no_wrap=True)
    shown.add_column(overflow="fold")
    for name, value in rows(status):
        style = COLOURS.get(status.state, "") if name == "state" else ""
        shown.add_row(name, Text(value, style=style))
    return shown


def rows(status: RunStatus) -> list[tuple[str, str]]:
    """The table's rows: name and text."""
    found = [("run", f"{status.name} in {status.run_dir}"), ("state", _said(status))]
    if status.phase:
        found.append(("phase", status.phase))
    if status.step or status.total_steps:
        of = f" of {status.total_steps}" if status.total_steps else ""
        left = f", about {duration(status.eta_s)} left" if status.eta_s else ""
        found.append(("step", f"{status.step}{of}{left}"))
    if status.metrics:
        numbers = {name: value for name, value in status.metrics.items() if isinstance(value, int | float)}
        found.append(("last step", "  ".join(headlines(numbers))))
    if status.seconds_per_step is not None:
        found.append(("speed", f"{status.seconds_per_step:.3g} s a step"))
    if status.checkpoint:
        saved = status.checkpoint
        found.append(("checkpoint", f"step {saved.step}, {size_of(saved.bytes)}, {_ago(saved.time)}"))
    found += [("" if index else "attempts", _attempt(one)) for index, one in enumerate(status.attempts[-5:])]
    if status.owner:
        found.append(("process", f"{status.owner}; last heartbeat {status.heartbeat_age_s or 0:.0f} s ago"))
    found += [("" if index else "job", text) for index, text in enumerate(_jobs(status))]
    found += _ending(status)
    return found


def _said(status: RunStatus) -> str:
    never_began = not status.attempts and not status.exit
    meaning = (_NEVER_BEGAN if never_began else {}).get(status.state) or _MEANING.get(status.state)
    return f"{status.state}: {meaning}" if meaning else status.state


def _attempt(attempt: Attempt) -> str:
    since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(attempt.started))
    start = f" from step {attempt.from_step}" if attempt.from_step else ""
    how = _STOPPED.get(attempt.exit_status or 0) or _ENDED.get(attempt.how, attempt.how)
    took = f", {how} after {duration(attempt.ended - attempt.started)}" if attempt.ended else ""
    return f"{attempt.number}: {since}{start}{took}{f': {harmless(attempt.cause)}' if attempt.cause else ''}"


def _jobs(status: RunStatus) -> list[str]:
    """A line for each that waits or runs, and for the newest."""
    if not status.known:
        return [_job(record, None) for record in status.jobs[-1:]]
    lines = [_job(job.record, job.state) for job in status.known]
    before = len(status.jobs) - len(status.known)
    return [*lines[:-1], lines[-1] + (f"; {before} before" if before else "")]


def _job(record: JobRecord, state: JobState | None) -> str:
    said = f": {state.said}{f' ({state.detail})' if state.detail else ''}" if state else ""
    return f"{record.kind} {record.job_id} on {record.cluster}{said}"


def _ending(status: RunStatus) -> list[tuple[str, str]]:
    if not status.exit or status.state in ("starting", "running", "stopping"):
        return []
    ended = status.exit
    who = f"{ended['role']} rank {ended.get('rank')} on {ended.get('node')}: " if ended.get("role") else ""
    found = [("ended", f"{ended.get('class')} (exit {ended.get('exit_status')}), {_ago(ended.get('time'))}")]
    if ended.get("cause"):
        found.append(("cause", harmless(f"{who}{ended['cause']}")))
    if ended.get("log"):
        found.append(("log", str(ended["log"])))
    return found


def _ago(moment: Any) -> str:
    """A moment of a file that may be damaged."""
    return f"{duration(max(0.0, time.time() - moment))} ago" if isinstance(moment, int | float) else "at no known time"
