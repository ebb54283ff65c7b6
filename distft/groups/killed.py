"""Which signal killed a rank. Ray does not say. The server that forked a rank learns it as its parent, and writes it
into the rank's log, where the driver reads it, from whichever node. A rank that no server forked, as on GPUs, leaves
its stacks there where it crashed; of one that was killed nothing is known.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from distft.common.files import last_lines
from distft.common.logging import append_line
from distft.common.waiting import wait_until

# As faulthandler calls them, which writes the stacks.
_CRASHES: Final = {
    "Segmentation fault": "SIGSEGV", "Bus error": "SIGBUS", "Aborted": "SIGABRT",
    "Floating point exception": "SIGFPE", "Illegal instruction": "SIGILL",
}  # fmt: skip
_FATAL: Final = re.compile(f"Fatal Python error: ({'|'.join(_CRASHES)})")
_PROCESS: Final = "how the process ended:"
_BORN: Final = ", pid "  # in the first line of a process (``Shell.build``)
_TAIL: Final = 2000  # lines: many threads have long stacks
_WRITTEN_S: Final = 1.0  # Ray and the parent see the death at the same moment: the line is there soon


def note_log(folder: Path, log: str, *, process: str, attempt: int) -> None:
    """Says where this process logs, for ``say_killed``. ``folder``: the fork servers' (``worker_start.FOLDER``)."""
    with contextlib.suppress(OSError):  # a death without a name is no reason to end
        _note(folder, os.getpid()).write_text(json.dumps({"log": log, "process": process, "attempt": attempt}))


def say_killed(folder: Path, pid: int, number: int) -> None:
    """Writes into the log of the process that ended which signal that was; nothing of one that never had a log."""
    with contextlib.suppress(OSError, ValueError):
        note = _note(folder, pid)
        said = json.loads(note.read_text())
        note.unlink()
        append_line(Path(said["log"]), _line(pid, number), process=said["process"], attempt=said["attempt"])


def killed_by(log: str, pid: int) -> str:
    """``killed by SIGKILL`` or ``crashed with SIGSEGV``, as its log says of the process; empty where it says nothing
    within a second."""
    said = ""

    def is_said() -> bool:
        nonlocal said
        said = _said(last_lines(Path(log), _TAIL), pid)
        return bool(said)

    wait_until(is_said, _WRITTEN_S)
    return said


def _said(lines: Sequence[str], pid: int) -> str:
    for place, line in reversed(list(enumerate(lines))):
        if f"{_PROCESS} {pid} " in line:
            return line.partition(f"{_PROCESS} {pid} ")[2]
        if fatal := _FATAL.search(line):
            return f"crashed with {_CRASHES[fatal[1]]}" if _is_of(lines[:place], pid) else ""
    return ""


def _is_of(before: Sequence[str], pid: int) -> bool:
    """Whether the last process that began in a log is that one, as far as the lines reach back."""
    began = [line for line in before if _BORN in line]
    return not began or f"{_BORN}{pid} " in began[-1]


def _line(pid: int, number: int) -> str:
    name = signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"
    return f"{_PROCESS} {pid} {'crashed with' if name in _CRASHES.values() else 'killed by'} {name}"


def _note(folder: Path, pid: int) -> Path:
    return folder / f"{pid}.rank"
