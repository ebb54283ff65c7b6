"""A Ray of our own on a machine, whoever starts it, a run's process (``cluster``) or a job's node (``node.node_ray``):
the private folder of its sockets, logs and token, its settings, and the guard that clears it all away.

Imports no ray: a node's launcher starts it by its command line.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Self

from distft.common.files import tail
from distft.launch.on_ray import guard

_LONGEST_FOLDER = 38  # bytes; Ray's socket paths add 66 to "<folder>/r", and 107 is what a socket path may have
_KEPT_TAIL = 256 * 1024  # bytes of each of Ray's own logs kept of a run that failed
FORKS = "f"  # in the private folder, for the fork servers
SETTINGS = {
    "RAY_AUTH_MODE": "token",
    "RAY_USAGE_STATS_ENABLED": "0",
    # Every rank has an environment of its own: idle workers started in advance would be of no use.
    "RAY_prestart_worker_first_driver": "0",
    "RAY_enable_worker_prestart": "0",
    # Ray would run workers at nice 15: next to any other process they would hardly run at all.
    "RAY_worker_niceness": "0",
    # Ray would keep a record of every call (100,000 of them, in its GCS) and figures of every process that ever was, of
    # which nobody asks for anything: a long run would hold ever more.
    "RAY_task_events_report_interval_ms": "0",
    "RAY_enable_metrics_collection": "0",
    # Its 60 s are short where the first worker of a busy node imports for all.
    "RAY_worker_register_timeout_seconds": "180",
}


def private_folder(scratch: str | None, token: str) -> Path:
    """A new folder (mode 0700) on the machine's own disk with the token in it (0600).

    Sockets need a short path: where ``scratch``, or TMPDIR, has none, it is in /tmp. Raises OSError.
    """
    folder = None
    for place in (scratch, tempfile.gettempdir()):
        if place is not None and len(os.fsencode(place)) + len("/dft-12345678") <= _LONGEST_FOLDER:
            folder = Path(tempfile.mkdtemp(prefix="dft-", dir=place))
            break
    if folder is None:
        folder = Path(tempfile.mkdtemp(prefix="dft-", dir="/tmp"))
    for name in ("t", FORKS):
        (folder / name).mkdir(mode=0o700)
    with open(folder / "token", "x", opener=lambda path, flags: os.open(path, flags, 0o600)) as file:
        file.write(token)
    return folder


class PrivateRay:
    """Ray in a ``private_folder``. As a context manager: guarded, and cleared away with every process that belongs to
    it, whatever happens inside; the guard does so even where this process is killed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._guard: subprocess.Popen[bytes] | None = None

    @property
    def token(self) -> Path:
        """The file of its token; only the path travels."""
        return self.folder / "token"

    @property
    def temporary(self) -> Path:
        """Ray's own temporary folder."""
        return self.folder / "r"

    @property
    def session(self) -> Path:
        """Where its sockets and logs are, once it has started."""
        return self.temporary / "session_latest"

    def __enter__(self) -> Self:
        # Not hit by the terminal's Ctrl-C.
        self._guard = subprocess.Popen(
            [sys.executable, "-I", "-S", guard.__file__, str(self.folder)],
            stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
            cwd="/",
        )  # fmt: skip
        return self

    def __exit__(self, *_: object) -> None:
        assert self._guard is not None
        guard.end(str(self.folder))
        with contextlib.suppress(OSError):
            self._guard.communicate(b"done")

    def keep_logs(self, target: Path) -> None:
        """The ends of Ray's own logs, which go with its folder, to the run's."""
        with contextlib.suppress(OSError):
            target.mkdir(parents=True, exist_ok=True)
            for path in [*self.folder.glob("*.out"), *(self.session / "logs").glob("*")]:
                if path.is_file() and path.stat().st_size:
                    (target / path.name).write_bytes(tail(path, _KEPT_TAIL))
