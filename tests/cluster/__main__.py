"""A Slurm cluster on this machine while a command runs: ``python -m tests.cluster [--nodes N] [-- COMMAND ...]``.

The command (a shell if none is given) runs here with Slurm's commands set to the bed's; ``DISTFT_BED_PIDS``
has each node's PID 1, so that ``nsenter -t PID -m -n -i -u -p`` enters it. Its exit status is the command's.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

from tests.cluster.bed import BedFailed, Nodes
from tests.cluster.slurm_bed import SlurmBed


def main() -> int:
    """The command's exit status; 3 where no bed can be made."""
    parser = argparse.ArgumentParser(prog="python -m tests.cluster", description=__doc__)
    parser.add_argument("--nodes", type=int, default=2, metavar="N")
    parser.add_argument("--folder", type=Path, default=Path.cwd(), help="shared by all nodes (default: this one)")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    given = parser.parse_args()
    command = given.command[given.command[:1] == ["--"] :] or [os.environ.get("SHELL", "/bin/sh")]
    try:
        with Nodes(given.nodes, given.folder) as nodes, SlurmBed(nodes) as bed:
            pids = " ".join(f"{node.name}={node.pid}" for node in [nodes.login, *nodes])
            print(f"up: {pids}", file=sys.stderr)
            done = subprocess.run(command, env=bed.env | {"DISTFT_BED_PIDS": pids}, check=False)
            return done.returncode
    except BedFailed as error:
        print(error, file=sys.stderr)
        return 3


if __name__ == "__main__":
    sys.exit(main())
