"""Tiny models of several families, written once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.unit.models import tiny


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """The folder of a tiny model: ``model_folder("llama", tied=False)``."""
    made: dict[tuple[str, bool], str] = {}

    def folder(architecture: str = "llama", *, tied: bool = True) -> str:
        if (architecture, tied) not in made:
            path = tmp_path_factory.mktemp(f"{architecture}-{'tied' if tied else 'untied'}")
            made[architecture, tied] = tiny.write_model(Path(path), architecture, tied=tied)
        return made[architecture, tied]

    return folder
