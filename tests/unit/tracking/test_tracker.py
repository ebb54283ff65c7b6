from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from distft.tracking.metrics import Sample
from distft.tracking.progress import QuietProgress
from distft.tracking.timeline import TIMELINE
from distft.tracking.timing import Span
from distft.tracking.tracker import Tracker
from distft.tracking.wandb_backend import WandbOptions


class Seen(QuietProgress):
    def __init__(self) -> None:
        self.said: list[Any] = []

    def phase(self, name: str) -> None:
        self.said.append(name)

    def step(self, step: int, total: int | None, metrics: Any) -> None:
        self.said.append((step, total, dict(metrics)))

    def close(self) -> None:
        self.said.append("closed")


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_everything_goes_where_it_belongs(tmp_path: Path) -> None:
    seen = Seen()
    with Tracker(tmp_path, attempt=2, resume_step=None, total_steps=9, progress=seen) as tracker:
        tracker.event("start", role="policy")
        tracker.phase("rollout")
        tracker.log(1, {"loss": 0.5})
        tracker.log(1, {"loss": 0.25}, split="eval")
        tracker.samples(1, [Sample("q", "a", 1.0)])
        assert tracker.wandb_id is None
    metrics = [(line["split"], line["loss"]) for line in lines(tmp_path / "metrics.jsonl")]
    assert metrics == [("train", 0.5), ("eval", 0.25)]
    assert [(line["event"], line["attempt"]) for line in lines(tmp_path / "events.jsonl")] == [("start", 2)]
    assert [(line["completion"], line["attempt"]) for line in lines(tmp_path / "samples.jsonl")] == [("a", 2)]
    assert seen.said == ["rollout", (1, 9, {"loss": 0.5}), "closed"]


def test_an_error_closes_everything(tmp_path: Path) -> None:
    seen = Seen()

    def failing() -> None:
        with Tracker(tmp_path, attempt=1, resume_step=None, progress=seen) as tracker:
            tracker.log(1, {"loss": 0.5})
            raise KeyError("x")

    with pytest.raises(KeyError):
        failing()
    assert seen.said[-1] == "closed"
    assert len(lines(tmp_path / "metrics.jsonl")) == 1


def test_the_next_attempt_cuts_metrics_and_goes_on_elsewhere(tmp_path: Path) -> None:
    for attempt, resume, steps in ((1, None, (1, 2, 3)), (2, 2, (3, 4))):
        with Tracker(tmp_path, attempt=attempt, resume_step=resume) as tracker:
            tracker.event("start")
            for step in steps:
                tracker.log(step, {"attempt_seen": attempt})
    found = [(line["step"], line["attempt_seen"]) for line in lines(tmp_path / "metrics.jsonl")]
    assert found == [(1, 1), (2, 1), (3, 2), (4, 2)]
    assert [line["attempt"] for line in lines(tmp_path / "events.jsonl")] == [1, 2]


def test_a_broken_wandb_leaves_the_ledger_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    monkeypatch.setenv("WANDB_DATA_DIR", "/nowhere")
    wandb = WandbOptions("offline", "p", "n", "ppo", "g", run_id="abc")
    with Tracker(tmp_path, attempt=1, resume_step=None, wandb=wandb) as tracker:
        assert tracker.wandb_id == "abc"
        for step in range(1, 4):
            tracker.log(step, {"loss": 1.0})
            tracker.samples(step, [Sample("q", "a")])
    assert [line["step"] for line in lines(tmp_path / "metrics.jsonl")] == [1, 2, 3]


def test_disabled_wandb_is_not_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    disabled = WandbOptions("disabled", "p", "n", "ppo", "g")
    with Tracker(tmp_path, attempt=1, resume_step=None, wandb=disabled) as tracker:
        tracker.log(1, {"loss": 1.0})
        assert tracker.wandb_id is None
    assert "wandb" not in sys.modules


def test_another_attempt_goes_on_in_the_same_ledgers(tmp_path: Path) -> None:
    with Tracker(tmp_path, attempt=1, resume_step=None) as tracker:
        for step in (1, 2, 3):
            tracker.log(step, {"loss": float(step)})
        tracker.samples(3, [Sample("q", "a")])
        tracker.go_on(2, 2)
        tracker.event("start")
        tracker.log(3, {"loss": 30.0})
        tracker.samples(3, [Sample("q", "b")])
        tracker.go_on(3, None)
        tracker.log(1, {"loss": 10.0})
    assert [(line["step"], line["loss"]) for line in lines(tmp_path / "metrics.jsonl")] == [(1, 10.0)]
    assert [line["attempt"] for line in lines(tmp_path / "events.jsonl")] == [2]
    assert [line["attempt"] for line in lines(tmp_path / "samples.jsonl")] == [1, 2]


def test_metrics_after_the_step_that_an_attempt_goes_on_from_are_cut_off(tmp_path: Path) -> None:
    with Tracker(tmp_path, attempt=1, resume_step=None) as tracker:
        for step in (1, 2, 3):
            tracker.log(step, {"loss": float(step)})
        tracker.go_on(2, 2)
        tracker.log(3, {"loss": 30.0})
    assert [line["loss"] for line in lines(tmp_path / "metrics.jsonl")] == [1.0, 2.0, 30.0]


def test_the_timeline_shows_the_first_steps_of_each_attempt(tmp_path: Path) -> None:
    with Tracker(tmp_path, attempt=1, resume_step=None, timeline_steps=2) as tracker:
        for step in (1, 2, 3):
            tracker.spans([Span("policy", 0, f"update {step}", float(step), 1.0)])
        tracker.go_on(2, 2)
        tracker.spans([Span("policy", 0, "update 3 again", 5.0, 1.0)])
    bars = [event["name"] for event in json.loads((tmp_path / TIMELINE).read_text()) if event["ph"] == "X"]
    assert bars == ["update 1", "update 2", "update 3 again"]


def test_a_disk_without_room_for_the_timeline_does_not_matter(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / TIMELINE).symlink_to("/dev/full")
    with Tracker(tmp_path, attempt=1, resume_step=None, timeline_steps=9) as tracker:
        for step in (1, 2):
            tracker.spans([Span("policy", 0, "update", 1.0, 1.0)])
            tracker.log(step, {"loss": 1.0})
    assert [line["step"] for line in lines(tmp_path / "metrics.jsonl")] == [1, 2]
    assert caplog.text.count("timeline.json is not written further") == 1
