from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from distft.common.errors import DistftError, EnvironmentFallsShort, RunFailed, StoppedOnRequest, UserError
from distft.tracking.exit import Ending, clear_exit, read_exit, write_exit


@pytest.mark.parametrize(
    ("error", "kind", "status"),
    [
        (None, "done", 0),
        (UserError("x", where="models.policy"), "user_error", 2),
        (EnvironmentFallsShort("x"), "environment", 3),
        (StoppedOnRequest("x"), "stopped", 75),
        (DistftError("x"), "failure", 1),
        (RunFailed("x", kind="out_of_memory"), "out_of_memory", 1),
        (KeyError("x"), "defect", 1),
        (KeyboardInterrupt(), "interrupted", 130),
    ],
)
def test_class_and_status(tmp_path: Path, error: BaseException | None, kind: str, status: int) -> None:
    write_exit(tmp_path, Ending.of(error), attempt=1)
    content = json.loads((tmp_path / "exit.json").read_text())
    assert (content["class"], content["exit_status"], content["format"]) == (kind, status, 1)


def test_a_failed_worker_is_named(tmp_path: Path) -> None:
    error = RunFailed("SIGKILL", role="value", rank=0, node="n2", stage="update: backward", log="logs/value-0.log")
    write_exit(tmp_path, Ending.of(error), attempt=3)
    content = read_exit(tmp_path)
    assert content is not None
    assert time.time() - content.pop("time") < 60
    assert content == {
        "format": 1, "class": "failure", "cause": "SIGKILL", "role": "value", "rank": 0, "node": "n2",
        "stage": "update: backward", "log": "logs/value-0.log", "exit_status": 1, "attempt": 3,
    }  # fmt: skip


def test_read_and_clear(tmp_path: Path) -> None:
    assert read_exit(tmp_path) is None
    clear_exit(tmp_path)
    write_exit(tmp_path, Ending.of(None), attempt=1)
    clear_exit(tmp_path)
    assert read_exit(tmp_path) is None
    (tmp_path / "exit.json").write_text("{torn")
    assert read_exit(tmp_path) is None


def test_a_disk_that_refuses_does_not_hide_how_the_run_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    write_exit(tmp_path, Ending.of(KeyError("x")), attempt=1)
    assert "No space left" in caplog.text
    assert os.listdir(tmp_path) == []
