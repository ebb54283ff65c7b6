"""The fixture of the layout tests. Take it in with ``pytest_plugins``."""

from __future__ import annotations

import pytest

from tests.harness.corpus import make_starts
from tests.harness.matrix import Layouts


@pytest.fixture(scope="session")
def layouts(tmp_path_factory: pytest.TempPathFactory) -> Layouts:
    """The layouts, none started yet."""
    folder = tmp_path_factory.mktemp("layouts")
    return Layouts(folder, make_starts(folder / "starts"))
