"""Run by Ray in place of Python, to start a worker: the node's fork server becomes it, which has imported already.

    python -I -S fork_client.py default_worker.py ARGUMENTS...

The first one on a node starts the server; there is one for each environment that workers may have. Whatever goes
wrong, Python itself is started, as Ray would have done. Standard library only.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Mapping

# The private folder of the servers' sockets. A Ray that we started gives it to its processes, somebody else's has none.
FOLDER = "DISTFT_FORK_FOLDER"
# What a server imports before it forks.
MODULE = "DISTFT_FORK_MODULE"
# What differs from worker to worker, and is read after the fork or set by it.
_OWN = frozenset({"OMP_NUM_THREADS", "MKL_NUM_THREADS", "PWD", "OLDPWD", "SHLVL", "_"})
# For the server: libraries that start their threads when they are loaded could not be forked.
_NO_THREADS = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
_BACKLOG = 1024


def command() -> str:
    """What Ray is to run in place of Python, in the words of a shell on the node. ``DISTFT_*`` are the node's own."""
    return '"$DISTFT_FORK_PYTHON" -I -S "$DISTFT_FORK_CLIENT"'


def settings(folder: str) -> dict[str, str]:
    """What the processes of a Ray of our own must know."""
    return {FOLDER: folder, "DISTFT_FORK_PYTHON": sys.executable, "DISTFT_FORK_CLIENT": __file__}


def main() -> None:
    """Has the worker forked; where that fails, becomes it."""
    worker = sys.argv[1:]
    with contextlib.suppress(OSError, ValueError):
        if _forked(worker, dict(os.environ)):
            return
    os.execv(sys.executable, [sys.executable, *worker])


def _forked(worker: list[str], environment: Mapping[str, str]) -> bool:
    """Whether a server has forked the worker."""
    asked = {"argv": worker, "environment": environment, "folder": os.getcwd(), "umask": _umask()}
    with _connection(environment) as connection:
        words = json.dumps(asked).encode()
        socket.send_fds(connection, [len(words).to_bytes(4, "big")], [1, 2])
        connection.sendall(words)
        return bool(connection.recv(1))  # nothing where the server died: of what, its log says


def _connection(environment: Mapping[str, str]) -> socket.socket:
    """To the server for this environment. It listens before it has imported, so whoever comes early waits in line."""
    shared = {name: value for name, value in environment.items() if name not in _OWN and not name.startswith("RAY_")}
    key = hashlib.sha256(json.dumps(shared, sort_keys=True).encode()).hexdigest()[:12]
    path = os.path.join(environment[FOLDER], key)
    with open(f"{path}.lock", "wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.connect(path)
        except OSError:
            _serve(path)
            connection.connect(path)
    return connection


def _serve(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)  # of a server that died
    with socket.socket(socket.AF_UNIX) as listening, open(f"{path}.log", "ab") as log:
        listening.bind(path)
        listening.listen(_BACKLOG)
        subprocess.Popen(
            [sys.executable, "-m", "distft.groups.fork_server", str(listening.fileno())],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, pass_fds=[listening.fileno()], start_new_session=True,
            env=os.environ | _NO_THREADS,
        )  # fmt: skip


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


if __name__ == "__main__":
    main()
