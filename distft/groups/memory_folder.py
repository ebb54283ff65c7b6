"""A folder in a node's memory that ends with the process that made it, however that ends.

    python -I -S memory_folder.py FOLDER        (the guard: its input is a pipe that the maker holds)

It lies on the system's tmpfs, so that nothing reaches a disk (but what the system swaps), and what dies with the
machine dies with it. The maker and its guard hold a lock in it: a folder that nobody locks was left by two processes
that were both killed, and goes when the next is made. Standard library only: the guard is run as a script.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

MEMORY = Path("/dev/shm")
_PREFIX = "distft-"
_LOCK = ".lock"
_FREED_S = 20.0  # how long the guard of a former maker may take to remove what it left


def memory_path(name: str) -> Path:
    """Where the folder with this name lies, on every node."""
    return MEMORY / f"{_PREFIX}{name}"


class MemoryFolder:
    """Made for this user alone, and removed when this process has ended. Raises OSError where there is no tmpfs, or
    another process has the same folder."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = _made(path)
        ours, self._pipe = os.pipe()
        subprocess.run(
            [sys.executable, "-I", "-S", __file__, str(path)],
            stdin=ours, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, pass_fds=[self._lock], cwd="/",
            check=True,
        )  # fmt: skip
        os.close(ours)


def clear(place: Path) -> list[Path]:
    """Removes the folders of this user in ``place`` whose makers and guards are dead; returns them."""
    gone = []
    for path in place.glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError), open(path / _LOCK, "rb", opener=_without_waiting) as lock:
            status = path.lstat()
            if stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid():
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(path, ignore_errors=True)
                gone.append(path)
    return gone


def _without_waiting(path: str, flags: int) -> int:
    """Of another user it may be a pipe that nobody fills."""
    return os.open(path, flags | os.O_NONBLOCK)


def _made(path: Path) -> int:
    """A new folder's lock, held."""
    until = time.monotonic() + _FREED_S
    while True:
        clear(path.parent)
        try:
            path.mkdir(mode=0o700)
            lock = os.open(path / _LOCK, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            if time.monotonic() > until:
                raise
        except FileNotFoundError:  # cleared by another before it was locked; or there is no such place
            if not path.parent.is_dir():
                raise
        else:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if (path / _LOCK).exists():
                return lock
            os.close(lock)
        time.sleep(0.05)


def main() -> None:
    """Waits for the maker's end, and removes its folder. Not as its child, whom Ray would kill with it."""
    if os.fork():
        return
    os.setsid()
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    sys.stdin.read()
    shutil.rmtree(sys.argv[1], ignore_errors=True)


if __name__ == "__main__":
    main()
