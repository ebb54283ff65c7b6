"""PID 1 of a node: makes its private folders, says that it is ready, and then only reaps.

Run as ``python -I bed_init.py SPECIFICATION`` (JSON) in namespaces of its own. When it is killed,
the kernel kills everything else in its PID namespace: that is how a node is powered off.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

READY = "ready"


def main(specification: str) -> None:
    """Never returns."""
    given = json.loads(specification)
    socket.sethostname(given["name"])
    _mount("--bind", given["hosts"], "/etc/hosts")
    # A path that is shown again in its new, empty folder is bound there before the folder is put in place.
    for number, private in enumerate(given["private"]):
        stage = Path(given["stage"]) / str(number)
        stage.mkdir(exist_ok=True)
        _mount("-t", "tmpfs", "-o", f"mode={private['mode']},size={private['size']}", "node", str(stage))
        for path in private["visible"]:
            point = stage / Path(path).relative_to(private["folder"])
            point.mkdir(parents=True)
            _mount("--rbind", path, str(point))
        _mount("--move", str(stage), private["folder"])
    # Blocked in this process only: the children of a node are not this one's.
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD])
    os.chdir("/")
    print(READY, flush=True)
    while True:
        signal.sigwait([signal.SIGCHLD])
        _reap()


def _reap() -> None:
    """Buries the orphans that have died."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass


def _mount(*arguments: str) -> None:
    subprocess.run(["mount", "--no-mtab", *arguments], check=True, stdin=subprocess.DEVNULL)


if __name__ == "__main__":
    main(sys.argv[1])
