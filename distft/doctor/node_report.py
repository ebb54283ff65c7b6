"""What a node says of itself, asked on the node: versions, devices, folders, clock, ports, addresses.

No torch and no ray: it must answer on a node where these are broken. Everything in it is JSON.
"""

from __future__ import annotations

import contextlib
import http.client
import importlib.metadata
import os
import platform
import resource
import shutil
import socket
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import psutil

from distft.launch.machine import available_cpus, free_memory, memory_limit, nvidia_smi
from distft.planning.generation import installed_vllm

PACKAGES = ("distft", "torch", "deepspeed", "transformers", "ray", "datasets", "numpy", "wandb")
NO_VLLM = "none"  # which a node may do without, if all do
# Where a Ray of somebody else's may already listen: its head, and its agents.
KNOWN_PORTS = (6379, 52365)
_PORT_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
_WANDB_S = 5.0
_GPU_KEYS = (
    "name", "memory.total", "memory.used", "temperature.gpu", "ecc.errors.uncorrected.volatile.total",
    "clocks_event_reasons.hw_slowdown", "compute_mode",
)  # fmt: skip


def node_report(folder: Path, nonce: str, wandb_url: str) -> dict[str, Any]:
    """``folder``: the one that all nodes share, where the asker has left a file of the name ``nonce``."""
    return {
        "name": socket.gethostname(),
        "time": time.time(),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in PACKAGES} | {"vllm": installed_vllm() or NO_VLLM},
        "modules": [name for name in os.environ.get("LOADEDMODULES", "").split(":") if name],
        "cpus": available_cpus(),
        "memory": memory_limit(),
        "memory_free": free_memory(),
        "gpus": nvidia_smi(*_GPU_KEYS),
        "folder": shared_folder(folder, nonce),
        "temporary": free_space(Path(tempfile.gettempdir())),
        "shared_memory": free_space(Path("/dev/shm")),
        "addresses": addresses(),
        "ports": ports(),
        "open_files": resource.getrlimit(resource.RLIMIT_NOFILE)[1],
        "wandb": reachable(wandb_url) if wandb_url else None,
    }


def version(package: str) -> str:
    """The installed version, "" where there is none."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def shared_folder(folder: Path, nonce: str) -> dict[str, Any]:
    """Whether the asker's file is seen, and a file can be written; the file server's clock against ours, seconds."""
    written = folder / f"{nonce}-{socket.gethostname()}-{os.getpid()}"
    found: dict[str, Any] = {
        "seen": (folder / nonce).is_file(),
        "written": "",
        "error": "",
        "clock": None,
        "free": None,
    }
    try:
        with open(written, "x", encoding="utf-8") as file:
            before = time.time()
            file.write("here")
            file.flush()
            os.fsync(file.fileno())
            after = time.time()
        found["clock"] = round((before + after) / 2 - written.stat().st_mtime, 3)
        found["written"] = written.name
        found["free"] = shutil.disk_usage(folder).free
    except OSError as error:
        found["error"] = error.strerror or str(error)
    return found


def free_space(folder: Path) -> int | None:
    """Bytes that are free there, None where there is no such folder."""
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return None


def addresses() -> dict[str, list[str]]:
    """The IPv4 and IPv6 addresses of every interface that is up."""
    up = {name for name, state in psutil.net_if_stats().items() if state.isup}
    families = (socket.AF_INET, socket.AF_INET6)
    return {
        name: [each.address.partition("%")[0] for each in found if each.family in families]
        for name, found in psutil.net_if_addrs().items()
        if name in up
    }


def ports() -> dict[str, Any]:
    """Which of the known ports are taken, and how many of those that the system gives out."""
    taken = [port for port in KNOWN_PORTS if not _free(port)]
    first, last = 32768, 60999
    with contextlib.suppress(OSError, ValueError):
        first, last = map(int, _PORT_RANGE.read_text().split())
    used: set[int] = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            lines = Path(table).read_text().splitlines()[1:]
            used |= {int(line.split()[1].rpartition(":")[2], 16) for line in lines}
    return {"taken": taken, "range": last - first + 1, "used": sum(first <= port <= last for port in used)}


def _free(port: int) -> bool:
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("", port))
        except OSError:
            return False
        return True


def reachable(url: str, seconds: float = _WANDB_S) -> str:
    """ "" where the server answers, whatever it says; else why not. Through the environment's proxy, as W&B goes."""
    try:
        with urllib.request.build_opener().open(f"{url.rstrip('/')}/healthz", timeout=seconds):
            return ""
    except urllib.error.HTTPError:
        return ""
    except (OSError, ValueError, http.client.HTTPException) as error:
        return str(getattr(error, "reason", error)) or type(error).__name__
