"""Child processes that end with this one, however it ends, and that Slurm's signals do not reach by accident.

Each leads a process group of its own. The kernel kills it when this process dies (parent death signal). USR1, which
Slurm sends to announce the end of a job and of which every process would die that does not know it, is ignored by
the child and all of its children.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from typing import IO, Any

from distft.common.waiting import wait_until

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)  # before the fork: a child must not load libraries


def start(
    command: Sequence[str], environment: Mapping[str, str], *, output: IO[Any] | None = None
) -> subprocess.Popen[bytes]:
    """Starts it with exactly this environment; ``output`` None: this process's own. Only from the main thread,
    with which the child's life is bound up. Raises OSError."""
    parent = os.getpid()

    def bind() -> None:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it died before the call above
            os._exit(1)
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)

    return subprocess.Popen(
        list(command),
        env=dict(environment),
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT if output is not None else None,
        process_group=0,
        preexec_fn=bind,
    )


def end(process: subprocess.Popen[bytes], patience_s: float) -> None:
    """SIGTERM to the child; after ``patience_s`` SIGKILL to its whole group, which is gone when this returns."""
    if process.poll() is None:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(patience_s)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def wait(process: subprocess.Popen[bytes], seconds: float) -> bool:
    """Whether it has ended within so many seconds; a signal handler of this process is served meanwhile."""
    return wait_until(lambda: process.poll() is not None, seconds, every_s=0.05)
