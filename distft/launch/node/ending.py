"""How an attempt of a job ended, from what the driver left behind; and whether the job shall start again by itself.

The driver's ``exit.json`` is the first witness, its exit status the second. Slurm's own account (143 for a step that
was told to end) is none.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from distft.checkpoint.layout import MANIFEST, checkpoints_folder, published
from distft.common.errors import DistftError, StoppedOnRequest
from distft.common.files import last_lines
from distft.tracking.exit import Ending, read_exit
from distft.tracking.last_ending import STARTED

Why = Literal["", "usr1", "terminated", "time"]
_SAID = {
    "usr1": "Slurm announced the end (USR1)",
    "terminated": "Slurm asked for the nodes (SIGTERM)",
    "time": "the time limit is near",
}
_LAST_LINES = 20


@dataclass(frozen=True)
class Status(Ending):
    """The content of ``status.json``: that of ``exit.json``, and what follows from it for the job.

    ``why_stopped``: what made it stop with a checkpoint, "" for anything else. ``requeue``: the batch script is to
    start the job again.
    """

    why_stopped: Why = ""
    requeue: bool = False

    def as_json(self) -> dict[str, Any]:
        """For the file."""
        content = asdict(self)
        return {"class": content.pop("kind"), **content}


def of_driver(run_dir: Path, returncode: int, since: float, why: Why, last_lines: Sequence[str]) -> Status:
    """What ended the driver. ``since``: when it started, so that a former attempt's exit.json does not count.
    ``why``: what this launcher had asked it to stop for."""
    found = read_exit(run_dir)
    if found is not None and float(found.get("time") or 0) >= since and found.get("exit_status") == returncode:
        status = Status(
            str(found.get("class")), returncode, str(found.get("cause") or ""), str(found.get("role") or ""),
            found.get("rank"), str(found.get("node") or ""), str(found.get("stage") or ""), str(found.get("log") or ""),
        )  # fmt: skip
    elif returncode == 0:
        status = Status("done", 0)
    elif why and returncode in (-signal.SIGTERM, StoppedOnRequest.exit_status):
        status = Status("stopped", StoppedOnRequest.exit_status, "stopped before the first step")
    elif returncode < 0:
        name = signal.Signals(-returncode).name
        log = str(run_dir / "logs" / "driver.log")
        status = Status("death", 1, f"the driver was killed by {name}", log=log, why_stopped=why)
    else:
        kinds = {2: "user_error", 3: "environment", StoppedOnRequest.exit_status: "stopped"}
        text = "\n".join(last_lines[-_LAST_LINES:]) or f"the driver ended with exit status {returncode}"
        status = Status(kinds.get(returncode, "defect"), returncode, text)
    if status.kind == "stopped":
        return replace(status, why_stopped=why or "time")
    return status


def decided(status: Status, launch: Path, run_dir: Path, restart: int) -> Status:
    """With the word on starting again: stopped for the machine's sake, and not going round in circles.

    One that was killed because Slurm would not wait goes on from its last checkpoint. A job that has twice in a row
    been stopped before it could write a checkpoint would go on like that for ever.
    """
    if status.kind == "death" and status.why_stopped and saved_since(run_dir, launch):
        cause = f"{status.cause}; it goes on from its last checkpoint"
        return replace(status, kind="stopped", exit_status=StoppedOnRequest.exit_status, cause=cause, requeue=True)
    if status.kind != "stopped":
        return status
    if restart > 0 and not any(saved_since(run_dir, start) for start in (launch, earlier(launch, restart))):
        stuck = "twice in a row no checkpoint came about, so the job is not started again: give it more time"
        return replace(status, cause=f"{status.cause}\n  {stuck}")
    return replace(status, requeue=True)


def earlier(launch: Path, restart: int) -> Path:
    """The folder of the job's start before this one."""
    return launch.with_name(f"{launch.name.rpartition('.')[0]}.{restart - 1}")


def saved_since(run_dir: Path, launch: Path) -> bool:
    """Whether the run has a checkpoint that is newer than this start of the job."""
    with contextlib.suppress(OSError):
        began = (launch / STARTED).stat().st_mtime
        return any((path / MANIFEST).stat().st_mtime >= began for _, path in published(checkpoints_folder(run_dir)))
    return False


def told(status: Status, run_dir: Path) -> str:
    """The end of the job's output: the cause, who is to blame, and the last lines of its log."""
    if status.exit_status == 0:
        return f"distft: done; the run is in {run_dir}"
    who = status.role + (f" rank {status.rank}" if status.rank is not None else "")
    who += f" on {status.node}" if status.node else ""
    head = "stopped" if status.kind in ("stopped", "cancelled") else f"failed ({status.kind})"
    lines = [f"distft: {head}: {f'{who.strip()}: ' if who.strip() else ''}{status.cause}"]
    if status.why_stopped:
        # What Slurm wanted, whether or not it could be done in time.
        lines.append(f"  because {_SAID[status.why_stopped]}")
    if status.log:
        lines += [f"  log: {status.log}", *(f"    {line}" for line in last_lines(Path(status.log), _LAST_LINES))]
    again = "it is started again by itself" if status.requeue else "the same command goes on"
    after = f"all logs: {run_dir / 'logs'}" if failed(status) else again
    lines.append(f"  exit status {status.exit_status}; {after}")
    return "\n".join(lines)


def failed(status: Status) -> bool:
    """Whether what is known of the attempt should be kept for people to look at."""
    return status.exit_status not in (0, StoppedOnRequest.exit_status)


def is_expected(error: BaseException) -> bool:
    """Whether an error is told as one message, without a traceback."""
    return isinstance(error, DistftError)
