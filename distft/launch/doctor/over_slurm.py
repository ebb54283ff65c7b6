"""The doctor's program under srun: on the nodes of the allocation it is in, or on nodes asked for as a run asks."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from distft.config.cluster import Cluster
from distft.launch.doctor.asking import OverSlurm
from distft.launch.slurm_options import Asked, sbatch_options, script_options

# Of sbatch's options those that say which nodes, and what of them.
_WHAT = ("--cpus-per-task=", "--exclusive", "--mem=", "--gres=", "--gpus-per-node=", "--partition=", "--account=",
         "--qos=", "--constraint=", "--reservation=")  # fmt: skip
_MINUTES, _WAIT_S = 10, 120


def over_slurm(cluster: Cluster, folder: Path) -> OverSlurm:
    """``folder`` is mounted where the cluster's programs run in a container."""
    gpus = int(cluster.node.gpus) if cluster.node.gpus != "auto" else 0
    options, program = srun_words(cluster, folder)
    if os.environ.get("SLURM_JOB_ID"):
        nodes = int(os.environ.get("SLURM_JOB_NUM_NODES", "1"))
        return OverSlurm(gpus, nodes, ["--overlap", *_of_container(options)], program)
    assert isinstance(cluster.nodes, int), "a Slurm cluster file says it in numbers"
    return OverSlurm(gpus, cluster.nodes, options, program)


def srun_words(cluster: Cluster, folder: Path) -> tuple[list[str], list[str]]:
    """The options of srun, and what comes before ``-m``: Python, within the container if there is one."""
    asked = Asked("doctor", str(folder), "", (), cluster, cluster.name, folder)
    options = [option for option in sbatch_options(asked) if option.startswith(_WHAT)]
    words = script_options(asked, sys.executable)
    pairs = list(zip(words[::2], words[1::2], strict=True))
    container = [value for name, value in pairs if name == "--srun"]
    within = [value for name, value in pairs if name == "--within"]
    python = next(value for name, value in pairs if name == "--python")
    return [*options, f"--time={_MINUTES}", f"--immediate={_WAIT_S}", *container], [*within, python]


def _of_container(options: Sequence[str]) -> list[str]:
    return [option for option in options if option.startswith("--container")]
