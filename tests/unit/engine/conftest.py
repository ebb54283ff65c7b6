"""One group of one rank and one of two, for all tests here, and the tiny model they train."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.engine.group import Group
from tests.unit.models import tiny


@pytest.fixture(scope="session")
def groups() -> Iterator[dict[int, Group]]:
    """Groups by their number of ranks."""
    with Group(1) as one, Group(2) as two:
        yield {1: one, 2: two}


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tied Llama with attention dropout."""
    return tiny.write_model(Path(tmp_path_factory.mktemp("tied")), "llama")


@pytest.fixture(scope="session")
def untied(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An untied Llama."""
    return tiny.write_model(Path(tmp_path_factory.mktemp("untied")), "llama", tied=False)


@pytest.fixture(scope="session")
def gemma(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A Gemma 2, whose embedding scale is a buffer in the model's own precision."""
    return tiny.write_model(Path(tmp_path_factory.mktemp("gemma")), "gemma2")
