"""Log lines of all processes in the order of time, and following them to the end."""

from __future__ import annotations

import io
import json
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from distft.checkpoint.lease import acquire
from distft.common.errors import UserError
from distft.launch.jobs import known_jobs, logs
from distft.launch.jobs.logs import Selection, follow_logs, last_lines, show_logs
from distft.tracking.exit import Ending, clear_exit, write_exit
from distft.tracking.jobs import JobRecord, JobState, add_job


def line(seconds: int, text: str) -> str:
    return f"2026-11-22T18:00:{seconds:02}.000+0000 INFO [attempt 1 x] distft: {text}\n"


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    folder = tmp_path / "logs"
    folder.mkdir()
    (folder / "driver.log").write_text(line(1, "driver one") + line(5, "driver two"))
    (folder / "policy-0.log").write_text(line(2, "policy") + "Traceback\n  of policy\n" + line(6, "policy two"))
    (folder / "policy-1.log").write_text(line(3, "policy of rank 1"))
    (folder / "value-0.log").write_text(line(4, "value"))
    start = {"event": "start", "attempt": 1, "time": time.time(), "recipe": "mine"}
    (tmp_path / "events.jsonl").write_text(json.dumps(start) + "\n")
    return tmp_path


def told(lines: list[str]) -> list[str]:
    return [text.partition("distft: ")[2] or text for text in lines]


def test_all_roles_in_the_order_of_time(run_dir: Path) -> None:
    assert told(last_lines(run_dir, Selection(), 100)) == [
        "driver one", "policy", "Traceback", "  of policy", "value", "driver two", "policy two",
    ]  # fmt: skip


def test_the_last_of_all_together(run_dir: Path) -> None:
    assert told(last_lines(run_dir, Selection(), 2)) == ["driver two", "policy two"]
    assert last_lines(run_dir, Selection(), 0) == []


def test_one_role_one_rank_all_ranks(run_dir: Path) -> None:
    assert told(last_lines(run_dir, Selection("policy", 1), 9)) == ["policy of rank 1"]
    assert "policy of rank 1" in told(last_lines(run_dir, Selection(None, None), 99))
    assert told(last_lines(run_dir, Selection("driver"), 9)) == ["driver one", "driver two"]


def test_who_is_not_there_is_said(run_dir: Path) -> None:
    with pytest.raises(UserError, match="did you mean policy\\? roles: driver, policy, value"):
        show_logs(run_dir, Selection("polcy"), 9)
    with pytest.raises(UserError, match="ranks with logs: 0, 1"):
        show_logs(run_dir, Selection("policy", 7), 9)
    with pytest.raises(UserError, match="no run lies in this folder"):
        show_logs(run_dir / "logs", Selection(), 9)


def test_a_long_log_is_read_from_its_end(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "_BLOCK", 64)
    (run_dir / "logs" / "driver.log").write_text("".join(line(n % 60, f"number {n}") for n in range(500)))
    assert told(last_lines(run_dir, Selection("driver"), 3)) == ["number 497", "number 498", "number 499"]


def test_stages_are_left_out_unless_asked_for(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many there are after the last line that is shown."""
    monkeypatch.setattr(logs, "_BLOCK", 100)
    stages = "".join(line(n, "").replace(" distft: ", f" distft.stage: stage: {n}") for n in range(30))
    (run_dir / "logs" / "driver.log").write_text(line(1, "one") + stages + line(40, "two") + stages)
    assert told(last_lines(run_dir, Selection("driver"), 5)) == ["one", "two"]
    assert len(last_lines(run_dir, Selection("driver", stages=True), 5)) == 5


def test_of_a_job_that_did_not_get_so_far_its_own_output(run_dir: Path) -> None:
    for log in (run_dir / "logs").iterdir():
        log.unlink()
    (run_dir / "logs" / "slurm-17.out").write_text("one\nmodule: command not found\n")
    assert last_lines(run_dir, Selection(), 1) == ["module: command not found"]


def test_why_nothing_is_logged_yet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    add_job(tmp_path, JobRecord("slurm", "17", "slurm-cpu"))
    monkeypatch.setattr(known_jobs, "job_state", lambda _: JobState("pending", "PENDING", "Resources"))
    show_logs(tmp_path, Selection(), 9)
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err == "distft: nothing has been logged yet: slurm job 17 is PENDING (Resources)\n"


def test_following_a_job_that_is_taken_back_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    add_job(tmp_path, JobRecord("slurm", "17", "slurm-cpu"))
    said = [JobState("pending", "PENDING")]
    monkeypatch.setattr(known_jobs, "job_state", lambda _: said.pop() if said else JobState("ended", "CANCELLED"))
    monkeypatch.setattr(logs, "_LOOK_EVERY_S", 0.0)
    monkeypatch.setattr(logs, "_ASK_EVERY_S", 0.0)
    assert follow_logs(tmp_path, Selection(), 1, io.StringIO(), every_s=0.01) == 75
    assert "slurm job 17 is PENDING" in capsys.readouterr().err


def test_following_over_an_attempt_to_the_end(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What happens does so between two looks: an ending that the next attempt takes back is none."""

    def append(name: str, text: str) -> None:
        with (run_dir / "logs" / name).open("a") as file:
            file.write(text)

    def next_attempt() -> None:
        write_exit(run_dir, Ending("stopped", 75), 1)
        clear_exit(run_dir)

    def end() -> None:
        append("driver.log", line(14, "the last word"))
        write_exit(run_dir, Ending("failure", 1), 1)

    half = line(10, "half")
    happens = iter([
        lambda: append("policy-0.log", half[:20]),
        lambda: append("policy-0.log", half[20:]),
        lambda: append("reward-0.log", line(12, "a new role")),
        next_attempt,
        end,
    ])  # fmt: skip
    monkeypatch.setattr(logs, "_LOOK_EVERY_S", 0.0)
    monkeypatch.setattr(logs, "time", SimpleNamespace(monotonic=time.monotonic, sleep=lambda _: next(happens)()))
    output = io.StringIO()
    with acquire(run_dir):
        assert follow_logs(run_dir, Selection(), 1, output) == 1
    assert told(output.getvalue().splitlines()) == ["policy two", "half", "a new role", "the last word"]


def test_a_run_that_ended_is_shown_and_its_status_returned(run_dir: Path) -> None:
    write_exit(run_dir, Ending("cancelled", 75), 1)
    output = io.StringIO()
    assert follow_logs(run_dir, Selection(), 1, output) == 75
    assert told(output.getvalue().splitlines()) == ["policy two"]


def test_a_requeued_run_is_followed_into_its_next_attempt(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add_job(run_dir, JobRecord("slurm", "17", "slurm-cpu"))
    said = [JobState("running", "COMPLETING"), JobState("pending", "PENDING"), JobState("pending", "PENDING")]
    monkeypatch.setattr(known_jobs, "job_state", lambda _: said.pop(0) if said else JobState("ended", "COMPLETED"))
    monkeypatch.setattr(logs, "_LOOK_EVERY_S", 0.0)
    monkeypatch.setattr(logs, "_ASK_EVERY_S", 0.0)
    write_exit(run_dir, Ending("stopped", 75), 1)
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 3:
            write_exit(run_dir, Ending("done", 0), 2)

    monkeypatch.setattr(time, "sleep", sleep)
    assert follow_logs(run_dir, Selection(), 1, io.StringIO()) == 0
    assert len(slept) == 3
