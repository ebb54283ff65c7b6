"""Outlives a driver that was killed, to end what is left of its local Ray. Run as a script.

    python -I -S ray_guard.py FOLDER        (its standard input is a pipe that the driver holds)

Ray's agents notice the end of their raylet only after two minutes. When the pipe closes without the
word "done", the guard kills the processes of the cluster whose private folder is FOLDER, known by the
path of their token or by their open files, and removes the folder. Standard library only.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
import time

_PERSISTENT_S = 15.0  # a process of the cluster may start another one just before it ends
_QUIET_PASSES = 2


def processes_of(folder: str) -> list[int]:
    """The processes of this user that belong to the Ray cluster with this private folder."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdecimal() and int(name) != os.getpid():
            with contextlib.suppress(OSError):
                if _belongs(f"/proc/{name}", folder):
                    found.append(int(name))
    return found


def _belongs(process: str, folder: str) -> bool:
    with open(f"{process}/cmdline", "rb") as file:
        command = file.read()
    if not command.startswith(b"ray::") and b"/ray/" not in command and b"distft.groups.fork_server" not in command:
        return False
    with open(f"{process}/environ", "rb") as file:
        if f"RAY_AUTH_TOKEN_PATH={folder}/".encode() in file.read():
            return True
    files = f"{process}/fd"
    return any(os.readlink(f"{files}/{name}").startswith(f"{folder}/") for name in os.listdir(files))


def end(folder: str) -> None:
    """Kills the cluster's processes, and removes its folder."""
    end_processes(folder)
    shutil.rmtree(folder, ignore_errors=True)


def end_processes(folder: str) -> None:
    """Kills the cluster's processes until none shows up any more."""
    until = time.monotonic() + _PERSISTENT_S
    quiet = 0
    while quiet < _QUIET_PASSES and time.monotonic() < until:
        left = processes_of(folder)
        quiet = 0 if left else quiet + 1
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.2)


def main() -> None:
    """Waits for the driver's end."""
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    if "done" not in sys.stdin.read():
        end(sys.argv[1])


if __name__ == "__main__":
    main()
