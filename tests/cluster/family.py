"""A command on a node with everything that it starts, daemons too: to be counted, and to be ended, exactly."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

from tests.cluster import foster
from tests.cluster.bed import BedFailed, Node, Process

_END_S = 15.0
_POLL_S = 0.05


class Family:
    """Starts ``argv`` on the node below a ``foster``; its output is appended to ``log``."""

    def __init__(self, node: Node, argv: Sequence[str | Path], *, log: Path, env: Mapping[str, str] | None = None):
        self.node = node
        self.log = log
        self._status = log.with_suffix(f".{time.monotonic_ns()}.status")
        with log.open("ab") as output:
            command = [sys.executable, "-I", foster.__file__, self._status, *argv]
            self._foster = node.start(command, env=env, cwd=log.parent, stdout=output, stderr=subprocess.STDOUT)

    def status(self) -> int | None:
        """The command's own exit status, None while it runs."""
        if self._status.exists():
            return int(self._status.read_text())
        code = self._foster.poll()
        return code if code is None else code or 1  # without a status written: the node is off

    def processes(self) -> list[Process]:
        """All that the command has started, itself included, and that still runs."""
        own = set(self._living())
        return [process for process in self.node.processes() if process.host_pid in own]

    def kill(self) -> None:
        """Kills them all. What loses its parent comes to the foster, which for that is the last to go."""
        deadline = time.monotonic() + _END_S
        while left := self._living():
            if time.monotonic() > deadline:
                raise BedFailed(f"{self.node.name}: these do not end: {self.processes()}")
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(_POLL_S)
        self._foster.kill()
        self._foster.wait()

    def _living(self) -> list[int]:
        if self._foster.poll() is not None:
            return []
        with contextlib.suppress(psutil.NoSuchProcess):
            return [pid for pid in _descendants(self._foster.pid) if _lives(pid)]
        return []


def _descendants(root: int) -> list[int]:
    return [child.pid for child in psutil.Process(root).children(recursive=True)]


def _lives(pid: int) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    return False
