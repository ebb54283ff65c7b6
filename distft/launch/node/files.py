"""How the nodes of a job find each other: small files in a folder of the run, on the shared file system.

::

    RUN/launch/<job id>.<restart>/        0700
        started         when this start of the job began
        token           0600: who knows it may use the job's Ray; gone when the job has ended
        head.json       the head is up: its address
        node-<n>.json   how far node n is, and what went wrong there
        status.json     how the attempt ended: the truth, and the word for all nodes to leave
        exit_status, ending, requeue      the same for the batch script, which reads no JSON
        slurm_ends_it   by the batch script: Slurm ends the job, SIGKILL follows soon

Every file is written whole (rename). The folder is made by the head and is new for every start of the job, so that
nothing in it is old.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path
from typing import Any

from distft.common.files import parse_json, write_atomic, write_json
from distft.tracking.last_ending import STARTED, STATUS

TOKEN, HEAD = "token", "head.json"
EXIT_STATUS, ENDING, REQUEUE = "exit_status", "ending", "requeue"
SLURM_ENDS_IT = "slurm_ends_it"
FORMAT = 1


class NodeFiles:
    """The folder, seen from one node."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def make(self) -> None:
        """Makes the folder and the token in it. Raises OSError; FileExistsError where this start has a head already."""
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        self.folder.mkdir(mode=0o700)
        (self.folder / STARTED).touch()
        with open(self.folder / TOKEN, "x", opener=lambda path, flags: os.open(path, flags, 0o600)) as file:
            file.write(secrets.token_hex(32))

    def forget_token(self) -> None:
        """At the end: it opens nothing any more."""
        with contextlib.suppress(OSError):
            (self.folder / TOKEN).unlink(missing_ok=True)

    def read(self, name: str) -> dict[str, Any] | None:
        """What a file says, None while it is not there.

        The folder is listed first: a network file system remembers for a while that a file was missing, but looks
        again at a folder that has changed.
        """
        try:
            if name not in os.listdir(self.folder):
                return None
            content = parse_json((self.folder / name).read_bytes())
        except (OSError, ValueError):
            return None
        return content if isinstance(content, dict) else None

    def token(self) -> str:
        """Raises OSError."""
        return (self.folder / TOKEN).read_text(encoding="ascii")

    def write_head(self, address: str, ip: str) -> None:
        """The head is up."""
        write_json(self.folder / HEAD, {"format": FORMAT, "address": address, "ip": ip})

    def write_node(self, number: int, state: str, **about: Any) -> None:
        """``state``: starting, ready, failed or gone. A disk that refuses it must not keep a node from ending."""
        with contextlib.suppress(OSError):
            write_json(self.folder / f"node-{number}.json", {"format": FORMAT, "state": state, **about})

    def nodes(self, count: int) -> dict[int, dict[str, Any]]:
        """What the nodes say of themselves, those that have said anything."""
        try:
            there = set(os.listdir(self.folder))
        except OSError:
            return {}
        found = {number: self.read(f"node-{number}.json") for number in range(count) if f"node-{number}.json" in there}
        return {number: said for number, said in found.items() if said is not None}

    def slurm_ends_it(self) -> bool:
        """Whether the batch script was told that the job is over."""
        return (self.folder / SLURM_ENDS_IT).exists()

    def write_status(self, status: dict[str, Any], ending: str) -> None:
        """How it ended; after this call every node may leave. Raises OSError."""
        write_atomic(self.folder / EXIT_STATUS, f"{status['exit_status']}\n")
        write_atomic(self.folder / ENDING, ending.rstrip("\n") + "\n")
        if status["requeue"]:
            write_atomic(self.folder / REQUEUE, "")
        write_json(self.folder / STATUS, {"format": FORMAT, **status})
