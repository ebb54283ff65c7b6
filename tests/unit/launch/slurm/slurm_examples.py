"""Cluster files with every option, for the tests of what is rendered from them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from distft.config.cluster import Cluster
from distft.launch.slurm.options import Asked

EVERYTHING: dict[str, Any] = {
    "name": "everything",
    "kind": "slurm",
    "nodes": 3,
    "node": {
        "cpus": 64,
        "gpus": 4,
        "memory_gib": 500.5,
        "gpu": {
            "type": "a100", "memory_gib": 39.5, "bf16_tflops": 312, "memory_bandwidth_gbs": 1555,
            "interconnect_gbs": 600,
        },
    },
    "network": {"interface": "ib0", "bandwidth_gbps": 200, "nccl": {"NCCL_IB_HCA": "mlx5"}},
    "slurm": {
        "partition": "gpu,gpu-long", "account": "proj.42", "qos": "high", "constraint": "a100&(ib|roce)",
        "reservation": "maint_7", "exclusive": True, "time": "2-12:30:00", "gpus_request": "gres",
    },
    "modules": ["cuda/12.8", "gcc/13"],
    "virtualenv": "/opt/env with space",
    "scratch": "/local",
    "environment": {"HF_HOME": "/data/hf", "HF_TOKEN": None},
}  # fmt: skip


def everything(**changed: Any) -> Cluster:
    """The cluster, with some of its keys replaced (None: left out)."""
    tree = {**EVERYTHING, **changed}
    return Cluster.model_validate({key: value for key, value in tree.items() if value is not None})


def asked(cluster: Cluster, **changed: Any) -> Asked:
    """A submission of the recipe ppo-tiny."""
    fields: dict[str, Any] = {
        "name": "ppo-tiny", "run_dir": "/home/me/runs/ppo-tiny", "source": "ppo-tiny", "overrides": (),
        "cluster": cluster, "cluster_source": cluster.name, "folder": Path("/home/me"),
    }  # fmt: skip
    return Asked(**{**fields, **changed})
