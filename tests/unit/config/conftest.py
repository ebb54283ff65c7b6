"""Recipe files for the tests to break."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.unit.config.examples import TEXTS


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str], str]:
    """Writes a recipe's text to a file; its path."""

    def write(text: str) -> str:
        path = tmp_path / "my.yaml"
        path.write_text(text, encoding="utf-8")
        return str(path)

    return write


@pytest.fixture
def recipes(write: Callable[[str], str]) -> Callable[[str], str]:
    """The path of a right recipe of a kind."""
    return lambda kind: write(TEXTS[kind])
