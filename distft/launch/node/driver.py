"""The driver as a child of the head's launcher: its output goes on to the job's, its last lines are remembered."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Self

from distft.launch.node import child

_REMEMBERED = 40
_END_S = 5.0


class Driver:
    """As a context manager: it is gone, with its process group, when the block is left."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        self._command, self._environment = command, environment
        self._lines: deque[str] = deque(maxlen=_REMEMBERED)
        self.started = time.time()

    def __enter__(self) -> Self:
        reading, writing = os.pipe()
        with os.fdopen(writing, "wb") as output:
            self._process = child.start(self._command, self._environment, output=output)
        self._reader = threading.Thread(target=self._pass_on, args=(reading,), name="driver's output", daemon=True)
        self._reader.start()
        return self

    def __exit__(self, *_: object) -> None:
        child.end(self._process, _END_S)
        self._reader.join(_END_S)

    def wait(self, seconds: float) -> bool:
        """Whether it has ended within so many seconds."""
        ended = child.wait(self._process, seconds)
        if ended:
            self._reader.join(_END_S)
        return ended

    def ask_to_stop(self) -> None:
        """SIGTERM: it stops after its step, with a checkpoint."""
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """At once."""
        child.end(self._process, 0)

    @property
    def returncode(self) -> int:
        """Its exit status, or minus the signal that ended it."""
        return self._process.wait()

    @property
    def last_lines(self) -> list[str]:
        """What it printed last."""
        return list(self._lines)

    def _pass_on(self, reading: int) -> None:
        with os.fdopen(reading, "rb") as output:
            for line in output:
                self._lines.append(line.decode("utf-8", "replace").rstrip())
                with contextlib.suppress(OSError, ValueError):
                    sys.stdout.buffer.write(line)
                    sys.stdout.buffer.flush()
