"""Imports what a rank needs once on a node, and forks a process for each rank that Ray starts there.

    python -m distft.groups.fork_server DESCRIPTOR        (a socket that listens; started by ``worker_start``)

Eight ranks that each import torch and transformers take a minute of processor time before the first of them does
anything. Only for ranks without a GPU: no library may have spoken to a driver before the fork. It ends with its
raylet. As the ranks' parent it alone learns which signal killed one, and says so in that rank's log.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import random
import runpy
import select
import signal
import socket
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from distft.groups.killed import say_killed
from distft.groups.worker_start import FOLDER, MODULE

_LOOK_MS = 1000  # how often it looks for its raylet
_REQUEST_S = 10.0  # how long a request may take to come whole


@dataclass(frozen=True)
class Asked:
    """A worker to become."""

    argv: list[str]
    environment: dict[str, str]
    folder: str
    umask: int
    output: tuple[int, int]  # descriptors of its standard output and standard error


def main() -> None:
    """Serves until the raylet has ended; in a child, is the worker."""
    listening = socket.socket(fileno=int(sys.argv[1]))
    raylet = Path("/proc") / os.environ["RAY_RAYLET_PID"]
    _import(os.environ[MODULE])
    asked = _serve(listening, raylet)
    if asked is not None:
        _become(asked)


def _import(module: str) -> None:
    getattr(importlib.import_module(module), "preload", lambda: None)()
    importlib.import_module("ray._private.workers.default_worker")
    if len(os.listdir("/proc/self/task")) > 1:
        raise RuntimeError(f"{module} starts threads when it is imported: it cannot be forked")
    gc.collect()
    gc.freeze()  # what is never looked at stays shared with the children


def _serve(listening: socket.socket, raylet: Path) -> Asked | None:
    """What a child is to become; None in the server, at its end."""
    signal.signal(signal.SIGCHLD, _reap)
    listening.setblocking(False)
    poll = select.poll()
    poll.register(listening, select.POLLIN)
    while raylet.exists():
        if poll.poll(_LOOK_MS):
            # Who gives up, or cannot be served, starts its worker without us.
            with contextlib.suppress(OSError, EOFError, ValueError), listening.accept()[0] as connection:
                asked = _forked(connection)
                if asked is not None:
                    listening.close()
                    return asked
    return None


def _forked(connection: socket.socket) -> Asked | None:
    """In the child what it is to become; None in the server, which has answered who asked."""
    connection.settimeout(_REQUEST_S)
    size, output, _, _ = socket.recv_fds(connection, 4, 2)
    in_child = False
    try:
        asked = Asked(output=(output[0], output[1]), **json.loads(_words(connection, int.from_bytes(size, "big"))))
        if _waits(connection):
            in_child = os.fork() == 0
            if in_child:
                return asked
            connection.sendall(b"1")
    finally:
        if not in_child:
            for descriptor in output:
                os.close(descriptor)
    return None


def _words(connection: socket.socket, size: int) -> bytes:
    words = bytearray()
    while len(words) < size:
        piece = connection.recv(size - len(words))
        if not piece:
            raise EOFError
        words += piece
    return bytes(words)


def _waits(connection: socket.socket) -> bool:
    """Whether who asked is still there: Ray gives up one that takes too long, and starts another in its place."""
    poll = select.poll()
    poll.register(connection, select.POLLIN)
    return not poll.poll(0)


def _reap(*_: object) -> None:
    """Takes leave of the children that have ended: at once, as the driver waits for the word of what killed one."""
    with contextlib.suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            if os.WIFSIGNALED(ended[1]):
                say_killed(Path(os.environ[FOLDER]), ended[0], os.WTERMSIG(ended[1]))


def _become(asked: Asked) -> None:
    """Runs the worker's script as a process of its own would, which had just been started with its environment."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.setsid()  # Ray kills the process group of a worker that died: ours is not that of the server and its siblings
    for target, descriptor in zip((1, 2), asked.output, strict=True):
        os.dup2(descriptor, target)
        os.close(descriptor)
    os.environ.clear()
    os.environ.update(asked.environment)
    os.chdir(asked.folder)
    os.umask(asked.umask)
    tempfile.tempdir = None
    _apart()
    sys.argv = asked.argv
    sys.path[0] = os.path.dirname(asked.argv[0])
    runpy.run_path(asked.argv[0], run_name="__main__")


def _apart() -> None:
    """Random numbers that siblings must not share, and threads, of which OpenMP was told when it was loaded."""
    random.seed()
    if (numpy := sys.modules.get("numpy")) is not None:
        numpy.random.seed()
    if (torch := sys.modules.get("torch")) is not None and "OMP_NUM_THREADS" in os.environ:
        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))


if __name__ == "__main__":
    main()
