"""What this process's control groups allow it: a container's quota, a Slurm step's or a systemd slice's memory.

A limit may be set at any level above the process, so all are read, from its own group (``/proc/self/cgroup``) up. In
a container the groups above it, and its own path, may not be visible; then what is mounted as the root is its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

_UNLIMITED = 2**62  # version 1 has no word for it
_MEMORY = ("memory.max", "memory.limit_in_bytes")
GROUPS, MOUNT = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")


def memory_limit(groups: Path = GROUPS, mount: Path = MOUNT) -> int | None:
    """Bytes of the least memory limit; None where there is none. Of version 2 ``memory.max``, of 1 its forerunner."""
    files = [(folder, name) for folder in _folders("memory", groups, mount) for name in _MEMORY]
    found = [_number(text) for folder, name in files for text in _read(folder, name)]
    return min((int(limit) for limit in found if limit is not None and 0 < limit < _UNLIMITED), default=None)


def cpu_quota(groups: Path = GROUPS, mount: Path = MOUNT) -> float | None:
    """Cores' worth of time in the least quota, 0.5 say; None where there is none."""
    found = []
    for folder in _folders("cpu", groups, mount):
        pairs = [text.split() for text in _read(folder, "cpu.max")]
        quota, period = _read(folder, "cpu.cfs_quota_us"), _read(folder, "cpu.cfs_period_us")
        for pair in [*pairs, *([[*quota, *period]] if quota and period else [])]:
            numbers = [_number(text) for text in pair]
            if len(numbers) == 2 and numbers[0] and numbers[1] and numbers[0] > 0:  # "max", or -1: no quota
                found.append(numbers[0] / numbers[1])
    return min(found, default=None)


def _folders(controller: str, groups: Path, mount: Path) -> Iterator[Path]:
    """This process's group of a controller and all above it, of both versions."""
    for line in _read(groups.parent, groups.name, whole=True):
        number, controllers, path = line.split(":", 2)
        if number == "0":
            roots = [mount, mount / "unified"]
        elif controller in controllers.split(","):
            roots = [mount / controllers, mount / controller]
        else:
            continue
        parts = [part for part in path.split("/") if part not in ("", "..")]
        for root in roots:
            for depth in range(len(parts), -1, -1):
                folder = root.joinpath(*parts[:depth])
                if folder.is_dir():
                    yield folder


def _read(folder: Path, name: str, *, whole: bool = False) -> list[str]:
    """The first line of a file, or all; nothing where it cannot be read."""
    try:
        lines = (folder / name).read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return []
    return [line for line in lines if line.count(":") >= 2] if whole else lines[:1]


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:  # "max"
        return None
