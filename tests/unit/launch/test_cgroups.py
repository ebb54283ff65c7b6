"""Limits of control groups: of both versions, nested, in a container; and one that the kernel really enforces."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import pytest

from distft.launch import cgroups, machine
from distft.launch.cgroups import cpu_quota, memory_limit

MIB = 2**20


def tree(folder: Path, groups: str, files: Mapping[str, str]) -> tuple[Path, Path]:
    (folder / "cgroup").write_text(groups)
    for name, text in files.items():
        path = folder / "mount" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    return folder / "cgroup", folder / "mount"


JOB = "system.slice/slurmstepd.scope/job_7"
STEP = f"{JOB}/step_0/user/task_0"
V1 = "4:memory:/slurm/uid_1000/job_7\n2:cpu,cpuacct:/slurm/uid_1000/job_7\n0::/\n"


@pytest.mark.parametrize(
    ("groups", "files", "memory", "quota"),
    [
        ("0::/\n", {"memory.max": str(300 * MIB), "cpu.max": "50000 100000"}, 300 * MIB, 0.5),
        ("0::/\n", {"memory.max": "max", "cpu.max": "max 100000"}, None, None),
        (f"0::/{STEP}\n", {f"{STEP}/memory.max": "max", f"{JOB}/memory.max": str(MIB)}, MIB, None),
        (f"0::/{STEP}\n", {f"{STEP}/cpu.max": "300000 100000", "system.slice/cpu.max": "150000 100000"}, None, 1.5),
        ("0::/../outside\n", {"memory.max": str(MIB)}, MIB, None),
        (V1, {"memory/slurm/uid_1000/job_7/memory.limit_in_bytes": str(64 * MIB),
              "memory/memory.limit_in_bytes": str(2**63 - 4096)}, 64 * MIB, None),
        (V1, {"cpu,cpuacct/slurm/uid_1000/cpu.cfs_quota_us": "200000",
              "cpu,cpuacct/slurm/uid_1000/cpu.cfs_period_us": "100000",
              "cpu,cpuacct/cpu.cfs_quota_us": "-1", "cpu,cpuacct/cpu.cfs_period_us": "100000"}, None, 2.0),
        (V1, {"memory/memory.limit_in_bytes": str(MIB), "cpu/cpu.cfs_quota_us": "25000",
              "cpu/cpu.cfs_period_us": "50000"}, MIB, 0.5),
        ("", {}, None, None),
    ],
    ids=["a container", "no limits", "a step's job", "the least of two quotas", "a path outside", "version 1",
         "version 1, quota above", "version 1 in a container", "no control groups"],
)  # fmt: skip
def test_the_least_limit_of_all_levels(
    groups: str, files: dict[str, str], memory: int | None, quota: float | None, tmp_path: Path
) -> None:
    where = tree(tmp_path, groups, files)
    assert memory_limit(*where) == memory
    assert cpu_quota(*where) == quota


@pytest.mark.parametrize(("quota", "cores"), [(0.5, 1), (1.5, 1), (None, 4), (64.0, 4)])
def test_the_plan_counts_on_no_more_cores_than_are_allowed(
    quota: float | None, cores: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cgroups, "cpu_quota", lambda: quota)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(4)), raising=False)
    assert machine.available_cpus() == cores


def test_a_limit_that_the_kernel_enforces(tmp_path: Path) -> None:
    """A nested group, made here: what a process in it may take is what it sees."""
    own = dict(reversed(line.split(":", 2)[1:]) for line in Path("/proc/self/cgroup").read_text().splitlines())
    path = next((path for path, name in own.items() if name == "memory"), None)
    group = Path(f"/sys/fs/cgroup/memory{path}/distft-test-{os.getpid()}")
    if path is None or os.geteuid() != 0:
        pytest.skip("only root makes a group of version 1")
    try:
        group.mkdir()
        (group / "memory.limit_in_bytes").write_text(str(300 * MIB))
    except OSError as error:
        pytest.skip(f"no group can be made here: {error}")
    code = f"open('{group}/cgroup.procs', 'w').write('0')\n"
    code += "from distft.launch.machine import memory_limit\nprint(memory_limit())"
    try:
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
        assert done.stdout.strip() == str(300 * MIB), done.stderr
    finally:
        with suppress(OSError):
            group.rmdir()
