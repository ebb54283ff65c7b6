"""status, logs and cancel of a run that was started by plain ``distft train``."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import SFT, Start, checkpoints, exit_record, lines

pytestmark = pytest.mark.e2e


def distft(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "distft.cli", *map(str, words)],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


def status(folder: Path) -> dict[str, Any]:
    told = distft("status", folder, "--json")
    assert told.returncode == 0, told.stderr
    answer = json.loads(told.stdout)
    assert isinstance(answer, dict)
    return answer


def test_a_run_is_watched_and_cancelled(start: Start) -> None:
    assert distft("status", "nothing/here").returncode == 2
    verb = start(*SFT, "train.steps=100000", "checkpoint.every=50000")
    verb.wait_for(lambda: (verb.folder / "events.jsonl").exists(), "events")
    first = status(verb.folder)
    assert first["state"] in ("starting", "running"), first
    verb.wait_for(lambda: len(lines(verb.folder, "metrics")) > 4, "steps")

    going = status(verb.folder)
    assert (going["name"], going["state"], going["total_steps"]) == ("sft-tiny", "running", 100000)
    assert going["step"] >= 3
    assert going["eta_s"] > 0
    assert str(verb.process.pid) in going["owner"]
    assert "stage: update" in distft("logs", verb.folder, "--role", "driver", "--stages").stdout
    seen = distft("logs", verb.folder).stdout
    assert "step 1/100000  loss " in seen
    assert "stage: " not in seen
    following = subprocess.Popen(
        [sys.executable, "-m", "distft.cli", "logs", str(verb.folder), "-f"], stdout=subprocess.PIPE, text=True
    )

    asked = distft("cancel", verb.folder)
    assert "to stop after its step, with a checkpoint" in asked.stdout, asked
    assert verb.end(60) == 75, verb.output
    assert following.wait(30) == 75
    assert following.stdout is not None
    assert "asked to stop by distft cancel" in following.stdout.read()
    assert exit_record(verb.folder)["class"] == "cancelled"
    ended = status(verb.folder)
    assert (ended["state"], ended["checkpoint"]["step"]) == ("stopped", ended["step"])
    assert distft("cancel", verb.folder).stdout == "not running: stopped\n"
    verb.assert_nothing_left()


@pytest.mark.slow
def test_cancelled_at_once_it_writes_no_checkpoint(start: Start) -> None:
    verb = start(*SFT, "train.steps=100000", "checkpoint.every=50000")
    verb.wait_for(lambda: lines(verb.folder, "metrics"), "a step")
    assert "to stop at once; no checkpoint" in distft("cancel", verb.folder, "--now").stdout
    assert verb.end(60) == 130, verb.output
    assert exit_record(verb.folder)["class"] == "interrupted"
    assert checkpoints(verb.folder) == []
    verb.assert_nothing_left()
