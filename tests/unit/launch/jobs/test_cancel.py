"""Whom a cancel asks, and how."""

from __future__ import annotations

import contextlib
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from distft.checkpoint.lease import acquire
from distft.checkpoint.manifest import Manifest
from distft.checkpoint.role_layout import RoleLayout
from distft.common.errors import UserError
from distft.launch.jobs import cancel as cancel_module
from distft.launch.jobs import known_jobs
from distft.launch.jobs.backends import job_state
from distft.launch.jobs.cancel import cancel
from distft.launch.slurm import queue as slurm_queue
from distft.launch.slurm.queue import JobForgotten, SlurmJob
from distft.tracking.exit import Ending, write_exit
from distft.tracking.jobs import JobRecord, JobState, Kind, Phase, add_job, read_jobs
from distft.tracking.stop_request import STOP, read_request
from distft.verbs.status_table import status_of


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    (tmp_path / "events.jsonl").write_text(json.dumps({"event": "start", "attempt": 1, "time": 1.0}) + "\n")
    return tmp_path


@pytest.fixture
def killed(monkeypatch: pytest.MonkeyPatch) -> list[JobRecord]:
    found: list[JobRecord] = []
    monkeypatch.setattr(cancel_module, "backend_of", lambda _: SimpleNamespace(kill=found.append))
    return found


def say(monkeypatch: pytest.MonkeyPatch, phase: Phase) -> None:
    monkeypatch.setattr(known_jobs, "job_state", lambda _: JobState(phase, phase.upper()))


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


@pytest.mark.parametrize(("phase", "state"), [("ended", "failed"), ("unknown", "lost")])
def test_what_does_not_run_is_left_alone(
    run_dir: Path, killed: list[JobRecord], monkeypatch: pytest.MonkeyPatch, phase: Phase, state: str
) -> None:
    add_job(run_dir, JobRecord("slurm", "17", "c"))
    say(monkeypatch, phase)
    assert cancel(run_dir) == f"not running: {state}"
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


def test_what_was_taken_back_is_remembered_though_slurm_forgets_it(
    run_dir: Path, killed: list[JobRecord], monkeypatch: pytest.MonkeyPatch
) -> None:
    add_job(run_dir, JobRecord("slurm", "17_2", "c"))
    say(monkeypatch, "pending")
    cancel(run_dir)

    def forgotten(_: str) -> SlurmJob:
        raise JobForgotten("Slurm does not know job 17_2 (any more)")

    monkeypatch.undo()
    monkeypatch.setattr(slurm_queue, "job_state", forgotten)
    (record,) = read_jobs(run_dir)
    assert job_state(record).cancelled
    assert not job_state(replace(record, taken_back=None)).cancelled
    assert status_of(run_dir).state == "stopped"


@pytest.mark.parametrize("runs", [True, False])
def test_all_jobs_of_the_run_are_meant(
    run_dir: Path, killed: list[JobRecord], monkeypatch: pytest.MonkeyPatch, runs: bool
) -> None:
    """One runs, or starts, and two wait: the first is asked, the others are taken back."""
    records = [JobRecord("slurm", name, "c") for name in ("17", "18", "19")]
    for record in records:
        add_job(run_dir, record)
    say(monkeypatch, "pending")
    states = {"17": JobState("running", "RUNNING"), "18": JobState("pending", "PENDING")}
    monkeypatch.setattr(known_jobs, "active_jobs", lambda _: states)
    with acquire(run_dir) if runs else contextlib.nullcontext():
        told = cancel(run_dir).splitlines()
    assert told[:2] == [f"slurm job {name} was still waiting and has been taken back" for name in ("18", "19")]
    assert told[2].startswith("asked process" if runs else "asked slurm job 17 to stop after its step")
    assert killed == records[1:]
    asked = read_request(run_dir)
    assert asked is not None
    assert (asked.jobs, bool(asked.tokens)) == (("17",), runs)


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


def test_of_a_pipeline_that_is_one_job_the_stage_is_asked_that_runs(
    tmp_path: Path, killed: list[JobRecord], monkeypatch: pytest.MonkeyPatch
) -> None:
    record = JobRecord("ray", "distft-mine-1", "c")
    add_job(tmp_path, record)
    say(monkeypatch, "running")
    sft, dpo = tmp_path / "sft", tmp_path / "dpo"
    with acquire(sft):
        write_exit(sft, Ending.of(None), 1)
    with acquire(dpo) as lease:
        assert "after its step, with a checkpoint" in cancel(tmp_path)
        first = read_request(dpo)
        assert first is not None
        assert (first.tokens, first.jobs, first.now) == ((lease.token,), ("distft-mine-1",), False)
        assert status_of(tmp_path).state == "stopping"
        saved = dpo / "checkpoints" / "step_00000007"
        saved.mkdir(parents=True)
        Manifest(7, (), {"policy": RoleLayout(2, 3)}, "f", "o", 1, 1.0).write(saved)
        assert "to stop at once; the newest checkpoint is that of step 7" in cancel(tmp_path)
        second = read_request(dpo)
        assert second is not None
        assert second.now
    assert read_request(sft) is None
    assert killed == [], "Ray's signal leaves no time for a checkpoint"


def test_no_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no run lies in this folder"):
        cancel(tmp_path)
