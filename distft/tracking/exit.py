"""How a run ended: ``RUN/exit.json``, the truth for schedulers that lose exit codes."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from distft.common.errors import DistftError, EnvironmentFallsShort, RunFailed, StoppedOnRequest, UserError
from distft.common.files import parse_json, write_json

EXIT = "exit.json"
FORMAT = 1
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Ending:
    """``kind`` (the file's ``class``): done, stopped (by a signal) or cancelled (by ``distft cancel``), both to go
    on; user_error, environment, interrupted, defect, or a failure's kind. ``exit_status`` as in the contract.
    Role, rank and node where one worker is to blame.
    """

    kind: str
    exit_status: int
    cause: str = ""
    role: str = ""
    rank: int | None = None
    node: str = ""
    stage: str = ""
    log: str = ""

    @classmethod
    def of(cls, error: BaseException | None) -> Self:
        """From what ended the run; None: it finished."""
        if error is None:
            return cls("done", 0)
        if isinstance(error, RunFailed):
            return cls(error.kind, error.exit_status, error.cause, error.role, error.rank, error.node, error.stage,
                       error.log)  # fmt: skip
        if isinstance(error, DistftError):
            return cls(_kind(error), error.exit_status, str(error))
        if isinstance(error, KeyboardInterrupt):
            return cls("interrupted", 130, "interrupted from the keyboard")
        return cls("defect", 1, f"{type(error).__name__}: {error}")


def write_exit(run_dir: Path, ending: Ending, attempt: int) -> None:
    """Write ``RUN/exit.json`` atomically. A disk that refuses it is logged: the run has ended anyway."""
    content = {
        "format": FORMAT, "class": ending.kind, "cause": ending.cause, "role": ending.role or None,
        "rank": ending.rank, "node": ending.node or None, "stage": ending.stage or None, "log": ending.log or None,
        "exit_status": ending.exit_status, "time": time.time(), "attempt": attempt,
    }  # fmt: skip
    try:
        write_json(run_dir / EXIT, content)
    except OSError as error:
        _log.error("%s cannot be written: %s", run_dir / EXIT, error)


def read_exit(run_dir: Path) -> dict[str, Any] | None:
    """What ``write_exit`` wrote last; None if the run is going on, was killed, or the file is unreadable."""
    try:
        content = parse_json((run_dir / EXIT).read_bytes())
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def clear_exit(run_dir: Path) -> None:
    """At start: a run that goes on has not ended. Raises OSError."""
    (run_dir / EXIT).unlink(missing_ok=True)


def _kind(error: DistftError) -> str:
    if isinstance(error, StoppedOnRequest):
        return "cancelled" if error.cancelled else "stopped"
    if isinstance(error, EnvironmentFallsShort):
        return "environment"
    if isinstance(error, UserError):
        return "user_error"
    return "failure"
