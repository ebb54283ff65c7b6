from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from distft.checkpoint.coordinator import Coordinator
from distft.checkpoint.manifest import record_files
from distft.checkpoint.role_layout import RoleLayout
from tests.harness.owner import Mine

LAYOUTS = {"policy": RoleLayout(2, 3, ("optimizer",)), "value": RoleLayout(1, 0)}


def save(
    coordinator: Coordinator, step: int, *, content: bytes = b"weights", progress: dict[str, Any] | None = None
) -> Path:
    """One checkpoint as a run makes it: two ranks of policy and one of value write, report, commit."""
    staging = coordinator.begin(step)
    reports = []
    for name in ("policy/rank_0.pt", "policy/rank_1.pt", "value/rank_0.pt"):
        path = staging / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content + name.encode() + str(step).encode())
        reports += record_files(staging, [name])
    return coordinator.commit(step, reports, progress or {"step": step}, LAYOUTS)


@pytest.fixture
def coordinator(tmp_path: Path) -> Coordinator:
    return Coordinator(tmp_path, 2, Mine(), fingerprint="abc", attempt=1)


@pytest.fixture
def names(tmp_path: Path) -> Callable[[], list[str]]:
    """What lies in the checkpoints folder, without the empty trash."""

    def look() -> list[str]:
        folder = tmp_path / "checkpoints"
        trash = folder / ".trash"
        assert not trash.exists() or not list(trash.iterdir())
        return sorted(path.name for path in folder.iterdir() if path != trash)

    return look
