"""What is really there: cores, memory and GPUs of this machine, seen without torch."""

from __future__ import annotations

import os
import socket
import subprocess
from pathlib import Path

from distft.planning.machine import GIB, PASSED_ON, Machine

CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def this_machine() -> Machine:
    """This machine, within the limits of its container: cores by affinity, memory by cgroup, GPUs by nvidia-smi."""
    gpus = _nvidia_gpus()
    return Machine(
        cpus=available_cpus(),
        memory_gib=memory_limit() / GIB,
        gpus=len(gpus),
        gpu_memory_gib=min((memory for _, memory in gpus), default=0.0),
        gpu_type=gpus[0][0] if gpus else "",
        loopback=next((name for _, name in socket.if_nameindex() if name in ("lo", "lo0")), ""),
        environment={name: os.environ[name] for name in PASSED_ON if name in os.environ},
    )


def available_cpus() -> int:
    """Cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def memory_limit() -> int:
    """Bytes of memory of this machine or of the container, whichever is less."""
    import psutil

    limits = [int(psutil.virtual_memory().total)]
    for path in CGROUP_LIMITS:
        try:
            limits.append(int(Path(path).read_text(encoding="ascii")))
        except (OSError, ValueError):  # no cgroup file, or "max"
            continue
    return min(limit for limit in limits if limit > 0)


def free_memory() -> int:
    """Bytes that programs started now could take."""
    import psutil

    return min(memory_limit(), int(psutil.virtual_memory().available))


def _nvidia_gpus() -> list[tuple[str, float]]:
    """(name, GiB) of each GPU; none where nvidia-smi is missing or fails."""
    query = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True).stdout
        rows = [line.rsplit(",", 1) for line in answer.splitlines() if "," in line]
        gpus = [(name.strip(), float(mebibytes) / 1024) for name, mebibytes in rows]
    except (OSError, ValueError, subprocess.SubprocessError):
        return []
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return gpus
    return gpus[: len([device for device in visible.split(",") if device.strip() not in ("", "-1")])]
