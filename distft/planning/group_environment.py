"""The environment variables of a group's processes."""

from __future__ import annotations

from distft.config.cluster import Cluster
from distft.planning.machine import Machine


def group_environment(cluster: Cluster, machine: Machine | None, *, gpus: int, threads: int) -> dict[str, str]:
    """What the ranks of a group are started with; entries of the cluster file that are null are the launcher's.

    On one machine gloo is bound to the loopback interface: without a default route it would look for the
    host's own name in vain. Hugging Face's folders and offline switches are passed on, tokens are not.
    """
    network = cluster.network
    env = {
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        # Threads that wait for each other sleep. Spinning, the default, wins nothing measurable on free cores; beside
        # another busy process a step took seven times as long.
        "OMP_WAIT_POLICY": "PASSIVE",
        # Tokenizers are forked into workers; their own threads would fight with the ranks for cores.
        "TOKENIZERS_PARALLELISM": "false",
    }
    if gpus == 0:
        env["DS_ACCELERATOR"] = "cpu"
        env["CUDA_VISIBLE_DEVICES"] = ""
    interface = network.interface
    if interface is None and cluster.kind == "local" and machine is not None:
        interface = machine.loopback or None
    if interface is not None:
        env["GLOO_SOCKET_IFNAME"] = interface
        if gpus:
            env["NCCL_SOCKET_IFNAME"] = interface
    if gpus:
        # Freed memory of one size serves another: a tenth of a GPU was lost to fragments without it.
        env["PYTORCH_CUDA_ALLOC_CONF"] = "expandable_segments:True"
        env |= network.nccl
    env |= dict(machine.environment) if machine else {}
    return env | {name: value for name, value in cluster.environment.items() if value is not None}
