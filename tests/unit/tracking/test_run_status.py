"""What a run folder says of its run."""

from __future__ import annotations

import json
import os
import re
import time
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from distft.checkpoint.lease import acquire
from distft.checkpoint.manifest import Manifest
from distft.checkpoint.role_layout import RoleLayout
from distft.common.errors import UserError
from distft.launch.node.files import NodeFiles
from distft.tracking.exit import Ending, write_exit
from distft.tracking.jobs import JobRecord, JobState, KnownJob, add_job
from distft.tracking.run_status import RunStatus, run_status, runs_inside
from distft.tracking.stop_request import ask_to_stop
from distft.verbs.status_table import rows, table

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


@pytest.mark.parametrize(
    ("name", "status", "said"),
    [("stop", 75, "stopped after 50 s"), ("stop", 2, "ended by wrong input after 50 s"), ("failure", 1, "failed after"),
     ("stop", 3, "ended by what the machine lacks after"), ("stop", 130, "stopped at once after"),
     ("rollback", None, "went back before a spike after"), ("stop", None, "stopped after 50 s")],
)  # fmt: skip
def test_an_attempt_says_in_words_how_it_ended(tmp_path: Path, name: str, status: int | None, said: str) -> None:
    ended = {} if status is None else {"exit_status": status}
    write(tmp_path / "events.jsonl", event("start", recipe="mine"), event(name, after=50, cause="why", **ended))
    ((_, line),) = [row for row in rows(run_status(tmp_path)) if row[0] == "attempts"]
    assert f", {said}" in line
    assert line.endswith(": why")


def test_one_that_was_killed_is_lost(run_dir: Path) -> None:
    assert run_status(run_dir).state == "lost"


def known(phase: Any, said: str, *, detail: str = "", code: int | None = None, submitted: float = START - 5,
          job_id: str = "17") -> KnownJob:  # fmt: skip
    return KnownJob(
        JobRecord("slurm", job_id, "slurm-cpu", submitted=submitted), JobState(phase, said, detail, exit_code=code)
    )


@pytest.mark.parametrize(
    ("phase", "ended", "state"),
    [("pending", None, "waiting"), ("pending", 75, "waiting"), ("running", None, "starting"), ("ended", None, "lost"),
     ("running", 75, "stopped"), ("unknown", None, "lost")],
)  # fmt: skip
def test_what_its_job_adds(run_dir: Path, phase: Any, ended: int | None, state: str) -> None:
    if ended is not None:
        write_exit(run_dir, Ending("stopped", ended), 2)
    assert run_status(run_dir, [known(phase, "SAID")]).state == state


def test_a_job_before_the_run(tmp_path: Path) -> None:
    add_job(tmp_path, JobRecord("slurm", "17", "slurm-cpu"))
    waiting = run_status(tmp_path, [known("pending", "PENDING", detail="Resources")])
    assert waiting.state == "waiting"
    assert ("job", "slurm 17 on slurm-cpu: PENDING (Resources)") in rows(waiting)
    assert run_status(tmp_path, [known("ended", "FAILED", code=1)]).state == "failed"
    assert run_status(tmp_path, [known("ended", "SUCCEEDED", code=0)]).state == "done", "in a folder not seen here"


@pytest.mark.parametrize(("said", "code", "state", "meaning"), [
    ("CANCELLED", 0, "stopped", "taken back before the run began"), ("CANCELLED", None, "stopped", "taken back before"),
    ("FAILED", 3, "failed", "its job ended before the run began"), ("FORGOTTEN", None, "lost", "its job is gone"),
    ("NODE_FAIL", 0, "failed", "its job ended before"), ("TIMEOUT", 0, "failed", "its job ended before"),
    ("COMPLETED", 0, "done", ""),
])  # fmt: skip
def test_a_job_that_ended_before_the_run_began(
    tmp_path: Path, said: str, code: int | None, state: str, meaning: str
) -> None:
    """Slurm's exit code of what it ended itself is 0: its state counts."""
    add_job(tmp_path, JobRecord("slurm", "17", "slurm-cpu"))
    found = run_status(tmp_path, [known("ended", said, code=code)])
    assert found.state == state
    assert meaning in dict(rows(found))["state"]


def test_a_new_job_that_never_began_says_how_it_is_and_not_the_one_before(run_dir: Path) -> None:
    write_exit(run_dir, Ending("stopped", 75), 2)
    later = time.time() + 100
    assert run_status(run_dir, [known("ended", "FAILED", code=3, submitted=later)]).state == "failed"
    assert run_status(run_dir, [known("running", "RUNNING", submitted=later)]).state == "starting"
    assert run_status(run_dir, [known("ended", "CANCELLED", code=0, submitted=later)]).state == "stopped"
    assert run_status(run_dir, [known("ended", "COMPLETED", code=0)]).state == "stopped", "of the attempt before"


def test_a_job_that_starts_and_is_asked_to_stop(tmp_path: Path) -> None:
    add_job(tmp_path, JobRecord("slurm", "17", "slurm-cpu"))
    ask_to_stop(tmp_path, jobs=["17"])
    assert run_status(tmp_path, [known("running", "RUNNING")]).state == "stopping"
    assert run_status(tmp_path, [known("running", "RUNNING", job_id="18")]).state == "starting"


def launched(run_dir: Path, name: str, **told: Any) -> Path:
    """A start of a job, as its launcher leaves it."""
    files = NodeFiles(run_dir / "launch" / name)
    files.make()
    if told:
        files.write_status({"requeue": False, **told}, "the ending")
    return files.folder


def test_the_launchers_word_counts_where_the_driver_has_none(tmp_path: Path) -> None:
    """A job cancelled while it starts; one whose nodes do not come up."""
    add_job(tmp_path, JobRecord("slurm", "17", "slurm-cpu"))
    launched(tmp_path, "17.0", **{"class": "environment", "exit_status": 3, "cause": "n2 did not come up"})
    for job in (known("running", "COMPLETING"), known("ended", "FAILED", code=3)):
        found = run_status(tmp_path, [job])
        assert found.state == "failed"
        assert ("cause", "n2 did not come up") in rows(found)
    launched(tmp_path, "17.1", **{"class": "stopped", "exit_status": 75, "cause": "stopped before the run started"})
    assert run_status(tmp_path, [known("ended", "CANCELLED", code=0)]).state == "stopped"


def test_the_newest_word_counts(run_dir: Path) -> None:
    folder = launched(run_dir, "17.0", **{"class": "stopped", "exit_status": 75, "cause": "an earlier start"})
    os.utime(folder / "started", (START - 50, START - 50))
    os.utime(folder / "status.json", (START - 40, START - 40))
    assert run_status(run_dir).state == "lost", "the attempt after it was killed"
    write_exit(run_dir, Ending("failure", 1), 2)
    assert run_status(run_dir).state == "failed"
    launched(run_dir, "18.0", **{"class": "environment", "exit_status": 3, "cause": "no nodes"})
    os.utime(run_dir / "launch" / "18.0" / "started", (time.time() + 9, time.time() + 9))
    os.utime(run_dir / "launch" / "18.0" / "status.json", (time.time() + 10, time.time() + 10))
    assert ("cause", "no nodes") in rows(run_status(run_dir))


def test_every_job_that_waits_or_runs_is_shown_and_the_running_one_counts(run_dir: Path) -> None:
    jobs = [known("running", "RUNNING", detail="n1", job_id="17"), known("pending", "PENDING", job_id="18")]
    for job in jobs:
        add_job(run_dir, job.record)
    found = run_status(run_dir, jobs)
    assert found.job == jobs[0].state
    assert [text for name, text in rows(found) if name == "job" or text.startswith("slurm")] == [
        "slurm 17 on slurm-cpu: RUNNING (n1)", "slurm 18 on slurm-cpu: PENDING",
    ]  # fmt: skip
    assert json.loads(json.dumps(found.as_json()))["known"][1]["record"]["job_id"] == "18"


def test_the_newest_checkpoint_with_a_manifest(run_dir: Path) -> None:
    folder = run_dir / "checkpoints" / "step_00000010"
    folder.mkdir(parents=True)
    (run_dir / "checkpoints" / "step_00000014").mkdir()
    Manifest(10, (), {"policy": RoleLayout(2, 3)}, "f", "o", 1, START).write(folder)
    found = run_status(run_dir).checkpoint
    assert found is not None
    assert (found.step, found.path) == (10, str(folder))


def test_no_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no such folder"):
        run_status(tmp_path / "nothing")
    (tmp_path / "inside").mkdir()
    with pytest.raises(UserError, match="there is no such folder\n  did you mean .*inside\\?"):
        run_status(tmp_path / "insid")
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
    console.print(table(status))
    text = console.export_text()
    assert re.search(r"step +14 of 100", text)
    assert "lost: nobody holds the run" in text


def test_damaged_endings_bring_nothing_down(run_dir: Path) -> None:
    (run_dir / "exit.json").write_text('{"time": "x", "exit_status": 75}')
    folder = launched(run_dir, "17.0")
    (folder / "status.json").write_text("[1]")
    assert run_status(run_dir).state == "lost", "the newest word cannot be read"
    (folder / "status.json").unlink()
    (folder / "started").unlink()
    assert run_status(run_dir).state == "stopped"


def test_a_cause_moves_no_cursor(run_dir: Path) -> None:
    write_exit(run_dir, Ending("exception", 1, "\x1b[2Jgone"), 2)
    write(run_dir / "events.jsonl", event("failure", 2, after=120, cause="\x1b[31mred"))
    told = rows(run_status(run_dir))
    assert ("cause", r"\x1b[2Jgone") in told
    assert any(text.endswith(r": \x1b[31mred") for _, text in told)


def test_the_job_of_a_whole_pipeline_runs_when_one_of_its_stages_does(tmp_path: Path) -> None:
    """The pipeline's folder has the job and no run; each stage says for itself how far it is."""
    job = JobRecord("ray", "distft-mine-1", "ray-existing")
    add_job(tmp_path, job)
    assert (runs_inside(tmp_path), run_status(tmp_path).state) == ([], "waiting")
    going = [KnownJob(job, JobState("running", "RUNNING"))]
    assert run_status(tmp_path, going).state == "starting"
    (tmp_path / "sft").mkdir()
    with acquire(tmp_path / "sft"):
        assert run_status(tmp_path, going).state == "running"
        ask_to_stop(tmp_path, tokens=[], jobs=[job.job_id])
        assert run_status(tmp_path, going).state == "stopping"
    write_exit(tmp_path / "sft", Ending.of(None), 1)
    assert runs_inside(tmp_path) == [tmp_path / "sft"]
    for said, code, state in (("SUCCEEDED", 0, "done"), ("FAILED", 1, "failed"), ("STOPPED", None, "stopped")):
        ended = [KnownJob(job, JobState("ended", said, exit_code=code))]
        assert run_status(tmp_path, ended).state == state


def test_an_evaluation_runs_once_it_has_begun(tmp_path: Path) -> None:
    write(tmp_path / "events.jsonl", event("start", recipe="judged"))
    with acquire(tmp_path):
        assert run_status(tmp_path).state == "starting"
        write(tmp_path / "events.jsonl", event("evaluate", after=1, models=["run:runs/sft"]))
        assert run_status(tmp_path).state == "running"
    write(tmp_path / "events.jsonl", event("done", after=2))
    write_exit(tmp_path, Ending.of(None), 1)
    assert run_status(tmp_path).state == "done"
