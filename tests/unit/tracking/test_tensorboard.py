"""Event files, read by TensorBoard's own reader: all of metrics.jsonl, and no step twice."""

from __future__ import annotations

import math
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

import pytest

from distft.cli import main
from distft.tracking import tensorboard
from distft.tracking.tensorboard import FOLDER, TensorBoardFiles
from distft.tracking.tracker import Tracker

HAS_IT = PathFinder.find_spec("tensorboard") is not None
needs_it = pytest.mark.skipif(not HAS_IT, reason="the package tensorboard, of the extra test, is not installed")


def read(run: Path) -> dict[str, list[tuple[int, float]]]:
    """Step and value of each tag."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(run / FOLDER), size_guidance={"scalars": 0})
    found.Reload()
    return {tag: [(one.step, one.value) for one in found.Scalars(tag)] for tag in found.Tags()["scalars"]}


def follow(run: Path, attempt: int, resume: int | None, steps: range, *, wanted: bool = True) -> None:
    with Tracker(run, attempt=attempt, resume_step=resume, tensorboard=wanted) as tracker:
        for step in steps:
            tracker.log(step, {"loss": 1 / step + attempt, "num_tokens": 10 * step})
            if step % 2 == 0:
                tracker.log(step, {"loss": 2 / step}, "eval")
                tracker.log(step, {"loss": 9.0}, "eval")  # due twice


@needs_it
def test_no_step_is_twice_after_a_resume_and_none_is_missing(tmp_path: Path) -> None:
    follow(tmp_path, 1, None, range(1, 6))
    follow(tmp_path, 2, 2, range(3, 7))
    found = read(tmp_path)
    assert set(found) == {"train/loss", "train/num_tokens", "eval/loss"}
    assert found["train/loss"] == [
        (step, pytest.approx(1 / step + attempt)) for attempt, steps in ((1, (1, 2)), (2, (3, 4, 5, 6)))
        for step in steps
    ]  # fmt: skip
    assert found["eval/loss"] == [(step, pytest.approx(2 / step)) for step in (2, 4, 6)]
    assert found["train/num_tokens"] == [(step, 10.0 * step) for step in range(1, 7)]


@needs_it
def test_a_restart_in_the_process_and_one_who_watches(tmp_path: Path) -> None:
    """One reader that has seen the files before forgets what is done again."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with Tracker(tmp_path, attempt=1, resume_step=None, tensorboard=True) as tracker:
        for step in (1, 2, 3):
            tracker.log(step, {"loss": float(step)})
        tracker.go_on(2, resume_step=2)
        for step in (3, 4):
            tracker.log(step, {"loss": 10.0 * step})
    watching = EventAccumulator(str(tmp_path / FOLDER))
    watching.Reload()
    assert [(one.step, one.value) for one in watching.Scalars("train/loss")] == [(1, 1), (2, 2), (3, 30), (4, 40)]
    TensorBoardFiles(tmp_path).close()
    watching.Reload()
    assert read(tmp_path) == {}


@needs_it
def test_switched_on_later_it_has_what_was_before(tmp_path: Path) -> None:
    follow(tmp_path, 1, None, range(1, 4), wanted=False)
    assert not (tmp_path / FOLDER).exists()
    follow(tmp_path, 2, 3, range(4, 5))
    assert [step for step, _ in read(tmp_path)["train/loss"]] == [1, 2, 3, 4]


@needs_it
def test_values_that_are_no_numbers(tmp_path: Path) -> None:
    with Tracker(tmp_path, attempt=1, resume_step=None, tensorboard=True) as tracker:
        tracker.log(1, {"loss": math.nan, "grad_norm": math.inf})
    for _ in range(2):
        found = read(tmp_path)
        assert math.isnan(found["train/loss"][0][1])
        assert found["train/grad_norm"] == [(1, math.inf)]
        with Tracker(tmp_path, attempt=2, resume_step=1, tensorboard=True):
            pass


@needs_it
def test_a_disk_that_refuses_ends_no_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / FOLDER).write_text("a file is in the way")
    follow(tmp_path, 1, None, range(1, 3))
    assert caplog.text.count("tensorboard is not written further") == 1
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 3


def test_where_the_package_is_missing_nothing_is_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tensorboard, "find_spec", lambda _: None)
    words: list[Any] = ["train", "sft-tiny", f"output_dir={tmp_path / 'run'}", "tracking.tensorboard=true"]
    assert main([*words, "--dry-run"]) == 3
    told = capsys.readouterr().err
    assert "tracking.tensorboard: the package tensorboard is not installed here" in told
    assert "pip install 'tensorboard>=2.20,<3'" in told
    assert not (tmp_path / "run").exists()
