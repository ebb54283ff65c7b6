"""What unit tests of several packages share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.unit.engine.group import Group


@pytest.fixture(scope="session")
def groups() -> Iterator[dict[int, Group]]:
    """A group of one rank and one of two, by their number of ranks, for all tests that need ranks."""
    from tests.unit.engine.group import Group

    with Group(1) as one, Group(2) as two:
        yield {1: one, 2: two}


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The paths that are fsynced from here on, in that order; they really are."""
    paths: list[str] = []
    real = os.fsync

    def seen(descriptor: int) -> None:
        paths.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", seen)
    return paths
