"""Whom a cancel asks, and how."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from distft.checkpoint.lease import acquire
from distft.common.errors import UserError
from distft.launch.jobs import cancel as cancel_module
from distft.launch.jobs.cancel import cancel
from distft.launch.jobs.job_record import JobRecord, Kind, add_job
from distft.launch.jobs.job_state import JobState, Phase
from distft.launch.jobs.stop_request import STOP, read_request


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    (tmp_path / "events.jsonl").write_text(json.dumps({"event": "start", "attempt": 1, "time": 1.0}) + "\n")
    return tmp_path


@pytest.fixture
def killed(monkeypatch: pytest.MonkeyPatch) -> list[JobRecord]:
    found: list[JobRecord] = []
    monkeypatch.setattr(cancel_module, "kill_job", found.append)
    return found


def say(monkeypatch: pytest.MonkeyPatch, phase: Phase) -> None:
    monkeypatch.setattr(cancel_module, "job_state", lambda _: JobState(phase, phase.upper()))


def test_a_run_of_no_job_is_asked_gently_and_then_at_once(run_dir: Path, killed: list[JobRecord]) -> None:
    with acquire(run_dir) as lease:
        assert "after its step, with a checkpoint" in cancel(run_dir)
        first = read_request(run_dir)
        assert first is not None
        assert (first.tokens, first.jobs, first.now) == ((lease.token,), (), False)
        assert "to stop at once; no checkpoint" in cancel(run_dir)
        second = read_request(run_dir)
        assert second is not None
        assert second.now
    assert killed == []


def test_a_request_to_the_attempt_before_does_not_count(run_dir: Path) -> None:
    with acquire(run_dir):
        cancel(run_dir)
    with acquire(run_dir):
        assert "after its step" in cancel(run_dir)


@pytest.mark.parametrize("phase", ["ended", "unknown"])
def test_what_does_not_run_is_left_alone(
    run_dir: Path, killed: list[JobRecord], monkeypatch: pytest.MonkeyPatch, phase: Phase
) -> None:
    add_job(run_dir, JobRecord("slurm", "17", "c"))
    say(monkeypatch, phase)
    assert cancel(run_dir) == "not running: lost"
    assert not (run_dir / STOP).exists()
    assert killed == []


def test_a_job_that_waits_is_taken_back(
    run_dir: Path, killed: list[JobRecord], monkeypatch: pytest.MonkeyPatch
) -> None:
    record = JobRecord("slurm", "17", "c")
    add_job(run_dir, record)
    say(monkeypatch, "pending")
    assert cancel(run_dir) == "slurm job 17 was still waiting and has been taken back"
    assert killed == [record]


@pytest.mark.parametrize("kind", ["slurm", "ray"])
def test_a_job_whose_run_has_not_begun_is_asked_by_its_id(
    run_dir: Path, killed: list[JobRecord], monkeypatch: pytest.MonkeyPatch, kind: Kind
) -> None:
    record = JobRecord(kind, "17", "c")
    add_job(run_dir, record)
    say(monkeypatch, "running")
    assert "after its step" in cancel(run_dir)
    asked = read_request(run_dir)
    assert asked is not None
    assert (asked.tokens, asked.jobs, asked.now) == ((), ("17",), False)
    assert killed == ([record] if kind == "ray" else []), "the run may be in a folder that we do not see"


@pytest.mark.parametrize(("kind", "by_scheduler"), [("slurm", True), ("ray", False)])
def test_at_once_slurm_ends_the_job_too(
    run_dir: Path, killed: list[JobRecord], monkeypatch: pytest.MonkeyPatch, kind: Kind, by_scheduler: bool
) -> None:
    add_job(run_dir, JobRecord(kind, "17", "c"))
    say(monkeypatch, "running")
    with acquire(run_dir):
        cancel(run_dir, now=True)
    asked = read_request(run_dir)
    assert asked is not None
    assert asked.now
    assert bool(killed) == by_scheduler


def test_no_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no run lies in this folder"):
        cancel(tmp_path)
