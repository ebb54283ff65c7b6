"""Run in place of Ray's own script (``setup_worker.py``), which imports Ray to start a worker; standard library only.

    python worker_start.py default_worker.py ARGUMENTS... --serialized-runtime-env-context=JSON --language=PYTHON

Sets the worker's environment. A worker whose module can be imported once for all is forked by the node's server, which
has imported it. The first one starts the server; there is one for each environment that workers may have. Where it
fails, and for every other worker, Python itself is started, as Ray would have done.
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
from collections.abc import Mapping, Sequence
from typing import Any

# The private folder of the servers' sockets. A Ray that we started gives it to its processes, somebody else's has none.
FOLDER = "DISTFT_FORK_FOLDER"
# What a server imports before it forks.
MODULE = "DISTFT_FORK_MODULE"
# For a worker that had to be started though its module could be imported once: the log of the server that failed.
NOT_FORKED = "DISTFT_NOT_FORKED"
_CONTEXT, _LANGUAGE = "--serialized-runtime-env-context=", "--language="
# What differs from worker to worker, and is read after the fork or set by it.
_OWN = frozenset({"OMP_NUM_THREADS", "MKL_NUM_THREADS"})
# For the server: libraries that start their threads when they are loaded could not be forked. The last is of Arrow,
# which pandas imports, and that scikit-learn, and that transformers, where they are installed.
_NO_THREADS = {
    "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1",
    "JE_ARROW_MALLOC_CONF": "background_thread:false",
}  # fmt: skip
_BACKLOG = 1024


def main() -> None:
    """Has the worker forked, or becomes it."""
    words = sys.argv[1:]
    worker = [word for word in words if not word.startswith((_CONTEXT, _LANGUAGE))]
    script = next(place for place, word in enumerate(worker) if not word.startswith("-"))
    variables = _variables(words)
    if variables is None:
        own = os.path.join(os.path.dirname(worker[script]), "setup_worker.py")
        os.execv(sys.executable, [sys.executable, own, *words])
    os.environ.update({name: os.path.expandvars(value) for name, value in variables.items()})
    if FOLDER in os.environ and MODULE in os.environ:
        with contextlib.suppress(OSError):
            if _forked(worker[script:], dict(os.environ)):
                return
        os.environ[NOT_FORKED] = f"{_path(os.environ)}.log"
    os.execv(sys.executable, [sys.executable, *worker])


def _variables(words: Sequence[str]) -> dict[str, str] | None:
    """The worker's own variables; None where it needs more than those, as a container or another language."""
    texts = [word.removeprefix(_CONTEXT) for word in words if word.startswith(_CONTEXT)]
    context: dict[str, Any] = json.loads(texts[0]) if texts else {}
    variables = dict(context.pop("env_vars", None) or {})
    python = context.pop("py_executable", None)
    if any(context.values()) or python not in (None, sys.executable) or f"{_LANGUAGE}PYTHON" not in words:
        return None
    return variables


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
    path = _path(environment)
    with open(f"{path}.lock", "wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.connect(path)
        except OSError:
            _serve(path)
            connection.connect(path)
    return connection


def _path(environment: Mapping[str, str]) -> str:
    """Of the server's socket; its log and lock lie beside it."""
    shared = {name: value for name, value in environment.items() if name not in _OWN and not name.startswith("RAY_")}
    key = hashlib.sha256(json.dumps(shared, sort_keys=True).encode()).hexdigest()[:12]
    return os.path.join(environment[FOLDER], key)


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
