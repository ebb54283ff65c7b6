"""One bed of two machines, with Slurm, for all tests of this folder; skipped with the reason where none can be made."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster import bed, slurm_bed
from tests.cluster.bed import Nodes
from tests.cluster.slurm_bed import SlurmBed


@pytest.fixture(scope="session")
def machines() -> None:
    """Machines can be made here."""
    reason = bed.why_not()
    if reason is not None:
        pytest.skip(f"no machines can be made here: {reason}")


@pytest.fixture(scope="package")
def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What all nodes and this machine see at the same path."""
    return tmp_path_factory.mktemp("cluster")


@pytest.fixture(scope="package")
def nodes(machines: None, shared_folder: Path) -> Iterator[Nodes]:
    """Two machines. A test that kills one makes its own: ``with Nodes(...)`` takes half a second."""
    with Nodes(2, shared_folder) as made:
        yield made


@pytest.fixture(scope="session")
def slurm_packages() -> None:
    """Slurm is installed."""
    reason = slurm_bed.why_not()
    if reason is not None:
        pytest.skip(f"no Slurm here: {reason}")


@pytest.fixture(scope="package")
def slurm(slurm_packages: None, nodes: Nodes) -> Iterator[SlurmBed]:
    """Slurm on them."""
    with SlurmBed(nodes) as made:
        yield made
