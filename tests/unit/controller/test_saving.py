"""Checkpoints that are written while training goes on: when they are committed, and what becomes of one that fails.

Real checkpoints, of groups that write a file each when they are asked to.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from distft.checkpoint.coordinator import Coordinator
from distft.checkpoint.manifest import NotWritten, faults, record_files
from distft.common.errors import RunFailed, StoppedOnRequest
from distft.config.load import load_recipe
from distft.config.recipe import Recipe
from distft.controller.choosing import note_evaluation
from distft.controller.mirror import Mirror
from distft.controller.progress import Progress
from distft.controller.session import MAX_FAILED_SAVES, Session
from distft.controller.time_limit import TimeLimit
from distft.groups.handles import Call
from distft.tracking.timing import Throughput
from distft.tracking.tracker import Tracker
from distft.workers.reports import Saved
from tests.harness.fake_groups import Said, fake_data, fake_model
from tests.harness.owner import Mine

STEP_S, SAVE_S, COPY_S = 10.0, 300.0, 2.0


@dataclass
class Writing(Said):
    """``lasts``: at how many looks the next copies are not written yet; ``refused``: the steps whose files are not."""

    lasts: list[int] = field(default_factory=list)
    refused: tuple[int, ...] = ()
    looks: int = 0
    behind: list[Any] = field(default_factory=list)

    def _report(self, call: Call[Any], samples: list[int]) -> Any:
        match call.verb.name:
            case "save":
                return self._write(call)
            case "begin_save":
                self.behind, self.looks = self._write(call), self.lasts.pop(0) if self.lasts else 0
                return None
            case "save_ended":
                self.looks -= 1
                return self.looks < 0
            case "finish_save":
                return Saved(tuple(self.behind), 7.0)
        return super()._report(call, samples)

    def _write(self, call: Call[Any]) -> list[Any]:
        folder = Path(call.args[0])
        (folder / "weights").write_text(folder.name)
        if int(folder.name.split("_")[1][:8]) in self.refused:
            return [NotWritten("policy rank 0: the disk is full")]
        return record_files(folder, ["weights"])


@dataclass
class Timed(Writing):
    """Each takes its time of a clock: ``SAVE_S`` to write, of it ``COPY_S`` for a copy."""

    now: float = 0.0
    written_at: float = 0.0

    def _report(self, call: Call[Any], samples: list[int]) -> Any:
        match call.verb.name:
            case "save":
                self.now += SAVE_S
            case "begin_save":
                self.now += COPY_S
                self.written_at = self.now + SAVE_S - COPY_S
            case "save_ended":
                return self.now >= self.written_at
            case "finish_save":
                self.now = max(self.now, self.written_at)
                return Saved(tuple(self.behind), SAVE_S)
        return super()._report(call, samples)


def session(folder: Path, said: Said, *keys: str, total: int = 9) -> Session:
    every = ["checkpoint.asynchronous=true", "checkpoint.every=2", "checkpoint.keep=9", "evaluation.every=1"]
    recipe = load_recipe("sft-tiny", [*every, *keys])
    return Session(
        recipe, {"policy": fake_model("policy", said)}, fake_data(said), {"train": 100},
        Tracker(folder, attempt=1, resume_step=None), Coordinator(folder, recipe.checkpoint.keep, Mine()),
        Progress(total_steps=total), Throughput(num_gpus=1), time_limit=TimeLimit(),
    )  # fmt: skip


class Copies(Mirror):
    """Of which steps copies are asked for."""

    def __init__(self) -> None:
        self.steps: list[int] = []

    def copy(self, recipe: Recipe, models: Any, step: int, state: Mapping[str, Any], beside: Any) -> None:
        assert state["step"] == step
        self.steps.append(step)


def step(one: Session, loss: float | None = None) -> list[int]:
    """One step more; the checkpoints that are then committed."""
    one.progress.finish(position=one.progress.position + 4, num_tokens=1, optimizer_steps=1)
    if loss is not None:
        note_evaluation(one, {"loss": loss})
    one.checkpoint_if_due()
    return committed(one)


def committed(one: Session) -> list[int]:
    return sorted(int(path.parent.name[-8:]) for path in one.coordinator.folder.glob("step_*/manifest.json"))


def saves(said: Said) -> list[str]:
    return [call.verb.name for call in said.calls if "save" in call.verb.name]


def events(folder: Path, name: str) -> list[int]:
    lines = map(json.loads, (folder / "events.jsonl").read_text().splitlines())
    return [line["step"] for line in lines if line["event"] == name]


def test_it_is_committed_when_all_of_it_is_written_and_before_the_next_is_begun(tmp_path: Path) -> None:
    said = Writing(lasts=[0, 9, 0, 0])
    one = session(tmp_path, said)
    assert [step(one) for _ in range(9)] == [
        [], [], [2],  # found written after the next step
        [2], [2], [2, 4],  # waited for, as another is due
        [2, 4, 6], [2, 4, 6], [2, 4, 6, 8, 9],  # and the last is written at once
    ]  # fmt: skip
    a_look = ["save_ended", "finish_save"]
    assert saves(said) == [
        "begin_save", *a_look, "begin_save", "save_ended", "finish_save", "begin_save", *a_look,
        "begin_save", "finish_save", "save",
    ]  # fmt: skip
    assert events(tmp_path, "checkpoint") == [2, 4, 6, 8, 9]
    for number in committed(one):
        path = one.coordinator.folder / f"step_{number:08d}"
        assert faults(path) == []
        progress = json.loads((path / "progress.json").read_text())
        assert (progress["step"], progress["position"]) == (number, 4 * number), "as it was when it was begun"
    assert one.time_limit.longest_save >= 7.0, "what the ranks' threads took counts"


def test_who_asks_the_run_to_stop_gets_both(tmp_path: Path) -> None:
    said = Writing(lasts=[9])
    one = session(tmp_path, said)
    step(one), step(one)
    one.stop.set()
    with pytest.raises(StoppedOnRequest, match="after step 3 with a checkpoint"):
        step(one)
    assert committed(one) == [2, 3]
    assert saves(said) == ["begin_save", "finish_save", "save"]


def test_what_could_not_be_written_is_said_of_its_own_step_and_the_third_in_a_row_ends_the_run(tmp_path: Path) -> None:
    one = session(tmp_path, Writing(refused=(2, 4, 6)))
    assert [step(one) for _ in range(4)] == [[]] * 4
    assert events(tmp_path, "checkpoint_failed") == [2]
    step(one)
    assert one.progress.failed_saves == 2
    step(one)
    with pytest.raises(RunFailed, match="3 checkpoints in a row failed.*step 6: policy rank 0: the disk") as end:
        step(one)
    assert (MAX_FAILED_SAVES, end.value.kind) == (3, "checkpoint")
    assert events(tmp_path, "checkpoint_failed") == [2, 4, 6]
    assert not list(one.coordinator.folder.glob(".staging*"))


def test_one_that_could_be_written_begins_the_count_again(tmp_path: Path) -> None:
    one = session(tmp_path, Writing(refused=(2, 4, 8)))
    assert [step(one) for _ in range(9)][-1] == [6, 9]
    assert one.progress.failed_saves == 0


def test_the_best_that_could_not_be_written_is_the_best_no_longer(tmp_path: Path) -> None:
    one = session(tmp_path, Writing(refused=(3,)), "evaluation.best=loss", "checkpoint.every=100")
    for loss in (3.0, 2.0, 1.0):
        step(one, loss)
    assert (one.progress.best.step, committed(one)) == (3, [1, 2])
    step(one, 2.5)
    assert (one.progress.best.step, one.progress.best.value, one.coordinator.pinned) == (2, 2.0, 2)
    assert step(one, 1.5) == [1, 2]
    assert (step(one, 1.7), one.progress.best.step) == ([1, 2, 5], 5)
    kept = json.loads((one.coordinator.folder / "step_00000005" / "progress.json").read_text())
    assert kept["best"]["step"] == 5


def _left_of_the_time(folder: Path, end: float, *keys: str) -> float:
    """Seconds of a job that are left when its run has stopped by itself."""
    said = Timed()
    one = session(folder, said, "checkpoint.every=50", *keys, total=10_000)
    one.time_limit = TimeLimit(end, longest_save=SAVE_S, clock=lambda: said.now)

    def train() -> None:
        while True:
            began, said.now = said.now, said.now + STEP_S
            step(one)
            one.time_limit.saw_step(said.now - began)

    with pytest.raises(StoppedOnRequest, match="with a checkpoint"):
        train()
    assert committed(one)[-1] == one.progress.step
    return end - said.now


@pytest.mark.parametrize("keys", [(), ("checkpoint.asynchronous=false",)])
def test_whenever_a_job_ends_its_last_checkpoint_is_written_in_time(tmp_path: Path, keys: tuple[str, ...]) -> None:
    for end in range(1500, 2000, 20):
        left = _left_of_the_time(tmp_path / str(end), float(end), *keys)
        assert left >= 0, end


def test_the_steps_that_are_not_saved_as_they_end_are_copied_into_memory(tmp_path: Path) -> None:
    """Of one that is written while training goes on, or could not be, the memory has a copy; of the last there is none,
    nor of that after which the run was asked to stop."""
    for number, (keys, refused, expected) in enumerate([
        (("checkpoint.asynchronous=false",), (4,), [1, 3, 4, 5, 7]),
        ((), (), [1, 2, 3, 4, 5, 6, 7, 8]),
        (("checkpoint.memory_every=3",), (), [3, 6]),
    ]):  # fmt: skip
        one = session(tmp_path / str(number), Writing(refused=refused), "checkpoint.memory_every=1", *keys)
        one.mirror = copies = Copies()
        for _ in range(9):
            step(one)
        assert copies.steps == expected
    one = session(tmp_path / "stopped", Writing(), "checkpoint.memory_every=1")
    one.mirror = copies = Copies()
    one.stop.set()
    with pytest.raises(StoppedOnRequest):
        step(one)
    assert copies.steps == []
