"""The tiny models that the engines here train."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.models import tiny


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
