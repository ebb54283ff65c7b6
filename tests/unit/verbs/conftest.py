"""Two models that answer, and a way to type."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from distft.cli import main
from tests.harness.speakers import write_speaker

Typed = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="session")
def speaker(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model with a chat template."""
    return write_speaker(tmp_path_factory.mktemp("speaker") / "model")


@pytest.fixture(scope="session")
def other_speaker(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Another one of the same sizes."""
    return write_speaker(tmp_path_factory.mktemp("speaker") / "other", seed=5)


@pytest.fixture
def distft(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Typed:
    """``distft("generate", ...)``: its exit status, standard output and standard error; ``stdin`` is what is piped."""

    def typed(*words: str | Path, stdin: str = "") -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        status = main([str(word) for word in words])
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    return typed
