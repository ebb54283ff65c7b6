"""The doctor's program on a node: prints one line of JSON. Started on this machine, by a Ray task, or by srun.

python -m distft.doctor.on_node report      {"folder": ..., "nonce": ..., "wandb_url": ...}
python -m distft.doctor.on_node collectives {"folder": ..., "ranks": {NODE: [FIRST, COUNT, IP]}, "world": ...}
python -m distft.doctor.on_node agent       {}
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from distft.common.errors import DistftError
from distft.doctor.node_report import node_report

COLLECTIVES_S = 150.0


def report(asked: Mapping[str, Any]) -> dict[str, Any]:
    """What the node says of itself."""
    return node_report(Path(asked["folder"]), asked["nonce"], asked["wandb_url"])


def collectives(asked: Mapping[str, Any]) -> dict[str, Any]:
    """Runs this node's ranks, each in a process of its own, and returns what they measured or why one could not."""
    name = socket.gethostname()
    first, count, address = asked["ranks"][name]
    words = [sys.executable, "-m", "distft.doctor.collectives", asked["folder"]]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **asked.get("environment", {})}
    ranks = [
        subprocess.Popen(
            [*words, str(first + local), str(asked["world"]), str(local), address, asked["backend"]],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
        )
        for local in range(count)
    ]  # fmt: skip
    measured, error = [], ""
    for rank in ranks:
        try:
            output, errors = rank.communicate(timeout=COLLECTIVES_S)
        except subprocess.TimeoutExpired:
            rank.kill()
            output, errors = rank.communicate()
            error = error or f"no result within {COLLECTIVES_S:g} s"
        if rank.returncode == 0:
            measured.append(json.loads(output.strip().splitlines()[-1]))
        else:
            error = error or (errors.strip().splitlines() or [f"exit {rank.returncode}"])[-1]
    return {"name": name, "measured": measured, "error": error}


def agent(_asked: Mapping[str, Any]) -> dict[str, Any]:
    """Starts a private Ray for a moment: it must start, and turn strangers away."""
    from distft.launch.on_ray.cluster import connect

    error = ""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    os.environ.clear()
    os.environ.update(environment)
    try:
        with connect(num_cpus=1):
            pass
    except DistftError as failed:
        error = str(failed)
    return {"name": socket.gethostname(), "error": error}


PHASES: dict[str, Callable[[Mapping[str, Any]], dict[str, Any]]] = {
    "report": report,
    "collectives": collectives,
    "agent": agent,
}


def main() -> None:
    """One phase on this node."""
    phase, asked = sys.argv[1:]
    print(json.dumps(PHASES[phase](json.loads(asked))), flush=True)


if __name__ == "__main__":
    main()
