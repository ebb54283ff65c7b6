"""How a run ended last, by the best witness: the driver's ``exit.json``, or, where a job ended before its driver began
or without its word, the launcher's ``launch/JOB.RESTART/status.json``."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from distft.common.files import parse_json
from distft.tracking.exit import read_exit

# In ``RUN/launch/JOB.RESTART/`` (``launch.node.files`` says what else is there): when this start of the job began, and
# how it ended.
STARTED, STATUS = "started", "status.json"
_LARGEST = 1e15  # of a time or a step: what is beyond is none, and NaN is not below


def last_ending(run_dir: Path, attempt_started: float = 0.0) -> Mapping[str, Any] | None:
    """As ``exit.json`` has it. None where nobody has said how the last start ended, or it goes on.
    ``attempt_started``: of the last attempt's driver; what was said before it is of an earlier one.
    """
    said = read_exit(run_dir)
    began, launch = _last_start(run_dir)
    if launch is None or (said is not None and number(said.get("time")) >= began):
        return said
    with contextlib.suppress(OSError, ValueError):
        path = launch / STATUS
        told = parse_json(path.read_bytes())
        moment = path.stat().st_mtime
        return {**told, "time": moment} if isinstance(told, dict) and moment >= attempt_started else None
    return None


def number(value: Any) -> float:
    """The value, where it is a number; 0 for what else may stand in a damaged file."""
    return float(value) if isinstance(value, int | float) and abs(value) < _LARGEST else 0.0


def _last_start(run_dir: Path) -> tuple[float, Path | None]:
    """When a job's launcher last began on this run, and its folder."""
    found: tuple[float, Path | None] = (0.0, None)
    for path in (run_dir / "launch").glob(f"*/{STARTED}"):
        with contextlib.suppress(OSError):
            found = max(found, (path.stat().st_mtime, path.parent), key=lambda one: one[0])
    return found
