"""One Ray cluster for each module that asks for it, and groups of toy workers on it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from distft.groups.placement import Deadlines, Groups, GroupSpec, start_groups
from distft.launch.on_ray.cluster import Cluster, connect

ROOT = str(Path(__file__).parents[2])
# For a program that joins a cluster of ours: Ray would make its loopback address one where it does not even listen.
LOOPBACK_STAYS = "import ray._private.services as services\nservices.resolve_ip_for_localhost = lambda host: host\n"


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with connect(num_cpus=32, num_gpus=2, object_store_bytes=512 * 2**20) as connected:
        yield connected


def toy(role: str, num_ranks: int = 1, **fields: Any) -> GroupSpec:
    """A group of toy workers."""
    environment = {"OMP_NUM_THREADS": "3", "TOY_WORD": role, "PYTHONPATH": ROOT}
    return GroupSpec(
        role=role, num_ranks=num_ranks, **{"worker": "tests.ray.toy_worker:ToyWorker", "env": environment} | fields
    )


def start(folder: Path, *specs: GroupSpec, **fields: Any) -> Groups:
    """Starts them with deadlines that no test reaches by accident."""
    given: dict[str, Any] = {"attempt": 1, "deadlines": Deadlines(60.0, 20.0, 120.0)} | fields
    return start_groups(specs, log_dir=folder / "logs", **given)
