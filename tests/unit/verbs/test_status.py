"""``distft status`` of one run, of several, and of a folder with runs in it."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from distft.checkpoint.lease import acquire
from distft.cli import main
from distft.tracking.exit import Ending, write_exit
from distft.tracking.jobs import JobRecord, JobState, add_job
from distft.tracking.tracker import Tracker


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A pipeline's folder: a stage that ended well, one that failed; and something that is no run."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "160")
    for name, error in (("sft", None), ("dpo", ValueError("odd"))):
        folder = tmp_path / "runs" / name
        (folder / "logs").mkdir(parents=True)
        with Tracker(folder, attempt=1, resume_step=None) as tracker:
            tracker.event("start", recipe=f"mine-{name}")
            tracker.event("ready", step=0, total_steps=4)
            tracker.log(3, {"loss": 0.25, "perf/tokens_per_second": 1000.0})
        write_exit(folder, Ending.of(error), 1)
    (tmp_path / "runs" / "notes").mkdir()
    return tmp_path / "runs"


@pytest.mark.parametrize("words", [["runs"], ["runs/dpo", "runs/sft"], ["runs/dpo", "runs"]])
def test_a_line_each(runs: Path, words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", *words]) == 0
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.split() == ["run", "state", "step", "last", "step", "left", "saved", "job"]
    assert [line.split()[:3] for line in lines] == [["runs/dpo", "failed", "3/4"], ["runs/sft", "done", "3/4"]]
    assert all("loss 0.25" in line for line in lines)


def test_a_pipelines_own_job_comes_first(
    runs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("distft.launch.jobs.known_jobs.job_state", lambda _: JobState("ended", "FAILED", exit_code=1))
    add_job(runs, JobRecord("ray", "distft-mine-2", "ray-existing"))
    assert main(["status", "runs"]) == 0
    own, *stages = [line.split() for line in capsys.readouterr().out.splitlines()[1:]]
    assert own == ["runs", "failed", "ray", "distft-mine-2"]
    assert [line[:2] for line in stages] == [["runs/dpo", "failed"], ["runs/sft", "done"]]


def test_one_run_is_told_at_length_however_it_is_named(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = []
    (runs / "dpo").rename(runs.parent / "elsewhere")
    for words in (["runs/sft"], ["runs"]):
        assert main(["status", *words]) == 0
        told.append(capsys.readouterr().out)
    assert "mine-sft in" in told[0]
    assert told[0].splitlines()[:3] == told[1].splitlines()[:3]


def test_as_json_one_is_an_object_and_several_are_a_list(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", "runs/sft", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["name"] == "mine-sft"
    assert main(["status", "runs", "--json"]) == 0
    assert [one["state"] for one in json.loads(capsys.readouterr().out)] == ["failed", "done"]


def test_a_folder_without_a_run_is_named(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", "runs/sft", "runs/notes"]) == 2
    told = capsys.readouterr()
    assert "runs/notes: no run lies in this folder" in told.err
    assert told.out == ""


def test_it_is_watched_until_all_have_ended(
    runs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run whose process is alive, this one; it ends while the verb waits for the third look."""
    (runs / "dpo" / "exit.json").unlink()
    waits: list[float] = []

    def waiting(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 2:
            write_exit(runs / "dpo", Ending.of(None), 1)

    with acquire(runs / "dpo"):
        monkeypatch.setattr(time, "sleep", waiting)
        assert main(["status", "runs", "--watch", "7", "--json"]) == 0
    looks = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [one["state"] for one, _ in looks] == ["running", "running", "done"]
    assert all(other["state"] == "done" for _, other in looks)
    assert waits == [7.0, 7.0]


@pytest.mark.parametrize("wrong", ["0", "soon", "-1"])
def test_watching_takes_seconds(runs: Path, wrong: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", "runs", f"--watch={wrong}"]) == 2
    assert "--watch 10" in capsys.readouterr().err


def test_a_narrow_terminal_breaks_lines_and_no_words(
    runs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "30")
    assert main(["status", "runs"]) == 0
    said = capsys.readouterr().out
    assert all(word in said for word in ("runs/dpo", "failed", "loss 0.25"))
