"""What a run folder says of its run."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from distft.checkpoint.lease import acquire
from distft.checkpoint.manifest import Manifest
from distft.common.errors import UserError
from distft.launch.jobs.job_record import JobRecord, add_job
from distft.launch.jobs.job_state import JobState
from distft.launch.jobs.run_status import RunStatus, run_status
from distft.launch.jobs.status import rows, show
from distft.launch.jobs.stop_request import ask_to_stop
from distft.tracking.exit import Ending, write_exit

START = time.time() - 1000


def write(path: Path, *records: dict[str, Any]) -> None:
    with path.open("a") as file:
        file.writelines(json.dumps(record) + "\n" for record in records)


def event(name: str, attempt: int = 1, after: float = 0.0, **fields: Any) -> dict[str, Any]:
    return {"format": 1, "time": START + after, "event": name, "attempt": attempt, **fields}


def step(number: int, after: float, **values: Any) -> dict[str, Any]:
    return {"format": 1, "step": number, "time": START + after, "split": "train", **values}


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """A run of 100 steps that has done four in its second attempt, from step 10 on."""
    write(
        tmp_path / "events.jsonl",
        event("start", recipe="mine", cluster="local"),
        event("ready", step=0, total_steps=100),
        event("stop", after=50, cause="stopped after step 10\nmore"),
        event("start", 2, after=100, recipe="mine", cluster="local"),
        event("resume", 2, after=110, step=10),
        event("ready", 2, after=111, step=10, total_steps=100),
    )
    write(tmp_path / "metrics.jsonl", *(step(n, n) for n in range(1, 11)))
    write(tmp_path / "metrics.jsonl", {"step": 10, "split": "eval", "time": START + 112, "loss": 2.5})
    write(tmp_path / "metrics.jsonl", *(step(n, 100 + 2.0 * n, loss=1.0 / n) for n in range(11, 15)))
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "driver.log").write_text("2026-11-22T18:00:00.000+0000 INFO [x] distft.stage: stage: update\n")
    return tmp_path


def test_a_run_that_goes_on(run_dir: Path) -> None:
    with acquire(run_dir) as lease:
        status = run_status(run_dir)
        assert str(lease.owner) == status.owner
    assert (status.name, status.state, status.phase) == ("mine", "running", "update")
    assert (status.step, status.total_steps) == (14, 100)
    assert status.seconds_per_step == pytest.approx(2.0), "of this attempt only"
    assert status.eta_s == pytest.approx(86 * 2.0)
    assert status.metrics is not None
    assert status.metrics["loss"] == pytest.approx(1 / 14)
    assert status.held_out == {"step": 10, "time": START + 112, "loss": 2.5}
    assert [(one.number, one.from_step, one.how, one.cause) for one in status.attempts] == [
        (1, 0, "stop", "stopped after step 10"), (2, 10, "", ""),
    ]  # fmt: skip
    assert status.heartbeat_age_s is not None
    assert status.heartbeat_age_s < 60


def test_one_that_is_asked_to_stop(run_dir: Path) -> None:
    with acquire(run_dir) as lease:
        ask_to_stop(run_dir, tokens=["somebody else's"])
        assert run_status(run_dir).state == "running"
        ask_to_stop(run_dir, tokens=[lease.token])
        assert run_status(run_dir).state == "stopping"


def test_one_that_starts(run_dir: Path) -> None:
    write(run_dir / "events.jsonl", event("start", 3, after=900, recipe="mine"))
    with acquire(run_dir):
        assert run_status(run_dir).state == "starting", "the steps are of the attempt before"


@pytest.mark.parametrize(
    ("status", "state"), [(0, "done"), (75, "stopped"), (1, "failed"), (3, "failed"), (130, "failed")]
)
def test_how_it_ended(run_dir: Path, status: int, state: str) -> None:
    write_exit(run_dir, Ending("a kind", status, "a cause"), 2)
    found = run_status(run_dir)
    assert found.state == state
    assert found.eta_s is None
    assert ("cause", "a cause") in rows(found)


def test_one_that_was_killed_is_lost(run_dir: Path) -> None:
    assert run_status(run_dir).state == "lost"


@pytest.mark.parametrize(
    ("phase", "ended", "state"),
    [("pending", None, "waiting"), ("pending", 75, "waiting"), ("running", None, "starting"), ("ended", None, "lost"),
     ("running", 75, "stopped"), ("unknown", None, "lost")],
)  # fmt: skip
def test_what_its_job_adds(run_dir: Path, phase: Any, ended: int | None, state: str) -> None:
    if ended is not None:
        write_exit(run_dir, Ending("stopped", ended), 2)
    assert run_status(run_dir, JobState(phase, "SAID")).state == state


def test_a_job_before_the_run(tmp_path: Path) -> None:
    add_job(tmp_path, JobRecord("slurm", "17", "slurm-cpu"))
    waiting = run_status(tmp_path, JobState("pending", "PENDING", "Resources"))
    assert waiting.state == "waiting"
    assert ("job", "slurm 17 on slurm-cpu: PENDING (Resources)") in rows(waiting)
    assert run_status(tmp_path, JobState("ended", "FAILED", exit_code=1)).state == "failed"
    assert run_status(tmp_path, JobState("ended", "SUCCEEDED", exit_code=0)).state == "done", (
        "in a folder not seen here"
    )


def test_the_newest_checkpoint_with_a_manifest(run_dir: Path) -> None:
    folder = run_dir / "checkpoints" / "step_00000010"
    folder.mkdir(parents=True)
    (run_dir / "checkpoints" / "step_00000014").mkdir()
    Manifest(10, (), {"policy": 2}, "f", "o", 1, START).write(folder)
    found = run_status(run_dir).checkpoint
    assert found is not None
    assert (found.step, found.path) == (10, str(folder))


def test_no_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no such folder"):
        run_status(tmp_path / "nothing")
    (tmp_path / "inside").mkdir()
    write(tmp_path / "inside" / "events.jsonl", event("start"))
    with pytest.raises(UserError, match="no run lies in this folder\n  did you mean .*inside"):
        run_status(tmp_path)


def test_torn_lines_do_no_harm(run_dir: Path) -> None:
    with (run_dir / "metrics.jsonl").open("a") as file:
        file.write('not json\n[1]\n{"step": 15, "split": "train", "ti')
    assert run_status(run_dir).step == 14


def test_json_and_table(run_dir: Path) -> None:
    status: RunStatus = run_status(run_dir)
    told = json.loads(json.dumps(status.as_json()))
    assert told["format"] == 1
    assert told["attempts"][1]["from_step"] == 10
    console = Console(record=True, width=100, file=(run_dir / "out").open("w"))
    show(status, console)
    text = console.export_text()
    assert re.search(r"step +14 of 100", text)
    assert "lost: nobody holds the run" in text
