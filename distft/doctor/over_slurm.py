"""The doctor's program under srun: on the nodes of the allocation it is in, or on nodes asked for as a run asks.

It is the batch script that calls srun, so that modules, virtualenv and container are those of a job.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from distft.common.errors import EnvironmentFallsShort
from distft.config.cluster import Cluster
from distft.doctor.asking import OverSlurm
from distft.launch.slurm.options import Asked, batch_script, sbatch_options, script_options

# Of sbatch's options those that say which nodes, and what of them.
_WHAT = ("--cpus-per-task=", "--exclusive", "--mem=", "--gres=", "--gpus-per-node=", "--partition=", "--account=",
         "--qos=", "--constraint=", "--reservation=", "--nodelist=", "--exclude=")  # fmt: skip
_MINUTES, _WAIT_S = 10, 120


def over_slurm(cluster: Cluster, folder: Path) -> OverSlurm:
    """``folder`` is mounted where the cluster's programs run in a container. Raises EnvironmentFallsShort."""
    if shutil.which("srun") is None and not cluster.modules:  # a module may bring it
        raise EnvironmentFallsShort(
            "there is no srun here", where="doctor", hint="run it on a login node of the cluster"
        )
    gpus = int(cluster.node.gpus) if cluster.node.gpus != "auto" else 0
    asked = Asked("doctor", str(folder), "", (), cluster, cluster.name, folder)
    script = job_shell(asked)
    if os.environ.get("SLURM_JOB_ID"):
        return OverSlurm(gpus, int(os.environ.get("SLURM_JOB_NUM_NODES", "1")), ["--overlap"], script)
    assert isinstance(cluster.nodes, int), "a Slurm cluster file says it in numbers"
    return OverSlurm(gpus, cluster.nodes + cluster.spare_nodes, srun_options(asked), script)


def srun_options(asked: Asked) -> list[str]:
    """The nodes of a job, for some minutes, if they are free soon."""
    options = [option for option in sbatch_options(asked) if option.startswith(_WHAT)]
    return [*options, f"--time={_MINUTES}", f"--immediate={_WAIT_S}"]


def job_shell(asked: Asked) -> list[str]:
    """The batch script with the options that a job of this cluster gives it."""
    return ["bash", str(batch_script()), *script_options(asked, sys.executable)]
