"""One job a run: whom a submission must wait for, and who is in its way."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from distft.checkpoint.lease import acquire
from distft.common.errors import UserError
from distft.launch.jobs import known_jobs
from distft.launch.jobs.former_jobs import former_jobs, wait_for_end
from distft.tracking.jobs import JobRecord, JobState, Kind, Phase, add_job


def say(monkeypatch: pytest.MonkeyPatch, phase: Phase) -> None:
    monkeypatch.setattr(known_jobs, "job_state", lambda _: JobState(phase, phase.upper()))


@pytest.mark.parametrize("kind", ["slurm", "ray"])
@pytest.mark.parametrize("phase", ["pending", "running"])
def test_a_job_that_has_not_ended_is_in_the_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: Kind, phase: Phase
) -> None:
    add_job(tmp_path, JobRecord(kind, "17", "c"))
    say(monkeypatch, phase)
    with pytest.raises(UserError, match=f"{kind} job 17: {phase.upper()}") as refused:
        former_jobs([tmp_path], replace=False)
    assert f"distft cancel {tmp_path}; or --replace" in refused.value.hint
    (jobs,) = former_jobs([tmp_path], replace=True).values()
    assert [job.record.job_id for job in jobs] == ["17"]
    assert former_jobs([tmp_path], replace=False, after=["17"]) == {}, "they are never there at once"


@pytest.mark.parametrize("phase", ["ended", "unknown"])
def test_a_job_that_has_ended_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, phase: Phase) -> None:
    add_job(tmp_path, JobRecord("slurm", "17", "c"))
    say(monkeypatch, phase)
    assert former_jobs([tmp_path, tmp_path / "new"], replace=False) == {}


@pytest.mark.parametrize(("phase", "in_the_way"), [("running", False), ("pending", True)])
def test_the_stage_of_a_pipeline_that_is_replaced_is_its_own_job_s(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, phase: Phase, in_the_way: bool
) -> None:
    """Where its job only waits, it is somebody else who holds a stage."""
    add_job(tmp_path, JobRecord("ray", "17", "c"))
    say(monkeypatch, phase)
    with acquire(tmp_path / "sft"):
        if in_the_way:
            with pytest.raises(UserError, match="another process writes this run"):
                former_jobs([tmp_path, tmp_path / "sft"], replace=True)
            return
        (found,) = former_jobs([tmp_path, tmp_path / "sft"], replace=True)
        assert found == tmp_path
        with pytest.raises(UserError, match="one at a time is enough"):
            former_jobs([tmp_path, tmp_path / "sft"], replace=False)


def test_a_pipeline_has_ended_once_its_stages_are_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray calls a job stopped while its process still writes."""
    add_job(tmp_path, JobRecord("ray", "17", "c"))
    say(monkeypatch, "ended")
    monkeypatch.setattr("distft.launch.jobs.former_jobs._LOOK_EVERY_S", 0.01)
    waiting = threading.Thread(target=wait_for_end, args=(tmp_path,), daemon=True)
    with acquire(tmp_path / "sft"):
        waiting.start()
        waiting.join(0.3)
        assert waiting.is_alive()
    waiting.join(60)
    assert not waiting.is_alive()


def test_a_process_that_is_no_job_is_not_replaced(tmp_path: Path) -> None:
    with acquire(tmp_path), pytest.raises(UserError, match="another process writes this run"):
        former_jobs([tmp_path], replace=True)
