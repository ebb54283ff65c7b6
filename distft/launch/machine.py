"""What is really there: cores, memory and GPUs of this machine, seen without torch."""

from __future__ import annotations

import os
import socket
import subprocess

from distft.launch import cgroups
from distft.planning.machine import GIB, PASSED_ON, Machine

_NVIDIA_S = 60.0  # a driver that is not kept loaded takes a while


def this_machine() -> Machine:
    """This machine, within what is allowed of it: cores by affinity and quota, memory by cgroup, GPUs by driver."""
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


def for_cpus_alone(torch_version: str) -> bool:
    """Whether a torch of that version can use no GPU, whatever is there."""
    return torch_version.endswith("+cpu")


def available_cpus() -> int:
    """Cores that this process may keep busy; at least one, whatever part of it a quota leaves."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cgroups.cpu_quota()
    return cores if quota is None else max(1, min(cores, int(quota)))


def memory_limit() -> int:
    """Bytes of memory of this machine, or of the container, job step or slice that this process is in."""
    import psutil

    there = int(psutil.virtual_memory().total)
    return min(there, cgroups.memory_limit() or there)


def free_memory() -> int:
    """Bytes that programs started now could take."""
    import psutil

    return min(memory_limit(), int(psutil.virtual_memory().available))


def nvidia_smi(*keys: str) -> list[dict[str, str]]:
    """What nvidia-smi says of each GPU, by the names of its query; none where it is missing or fails."""
    query = ["nvidia-smi", f"--query-gpu={','.join(keys)}", "--format=csv,noheader,nounits"]
    try:
        told = subprocess.run(query, capture_output=True, text=True, timeout=_NVIDIA_S, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    rows = [[cell.strip() for cell in line.split(",")] for line in told.splitlines()]
    return [dict(zip(keys, row, strict=True)) for row in rows if len(row) == len(keys)]


def _nvidia_gpus() -> list[tuple[str, float]]:
    """(name, GiB) of each GPU that this process may use; none without a driver."""
    import pynvml

    gpus: list[tuple[str, float]] = []
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return gpus
    try:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        every = [str(number) for number in range(pynvml.nvmlDeviceGetCount())]
        for device in every if visible is None else visible.split(","):
            known = device.strip()
            by_number = known.isdecimal()
            found = (
                pynvml.nvmlDeviceGetHandleByIndex(int(known)) if by_number else pynvml.nvmlDeviceGetHandleByUUID(known)
            )
            gpus.append((pynvml.nvmlDeviceGetName(found), pynvml.nvmlDeviceGetMemoryInfo(found).total / GIB))
    except pynvml.NVMLError:  # as CUDA reads its variable: what comes after one that is not there is hidden too
        pass
    finally:
        pynvml.nvmlShutdown()
    return gpus
