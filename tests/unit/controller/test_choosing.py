"""The best checkpoint, and the end for want of a better one: over real checkpoints and groups that only write down."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from distft.checkpoint.coordinator import Coordinator, SaveFailed
from distft.checkpoint.layout import step_name
from distft.checkpoint.manifest import record_files
from distft.checkpoint.role_layout import RoleLayout
from distft.common.errors import RunFailed, UserError
from distft.config.load import load_recipe
from distft.controller.choosing import note_evaluation, take_best
from distft.controller.progress import Best, Progress
from distft.controller.session import Session
from distft.tracking.timing import Throughput
from distft.tracking.tracker import Tracker
from distft.workers.verbs import ModelVerbs
from tests.harness.fake_groups import Said, fake_data, fake_model
from tests.harness.owner import Mine


class Saving(Session):
    failing = 0  # the step whose files are cut short behind their ranks' back

    def save(self) -> None:
        """What a run does, without the groups' own files."""
        step = self.progress.step
        staging = self.coordinator.begin(step)
        (staging / "weights").write_text(str(step))
        records = record_files(staging, ["weights"])
        if step == self.failing:
            (staging / "weights").write_text("")
        try:
            self.coordinator.commit(step, records, self._state(), {"policy": RoleLayout(1, 0)})
        except SaveFailed as error:
            self._count_failed_save(error, step)
            return
        self.progress.failed_saves = 0


@pytest.fixture
def said() -> Said:
    return Said()


def session(folder: Path, said: Said, *keys: str, total: int = 20) -> Saving:
    recipe = load_recipe("sft-tiny", ["evaluation.every=1", "checkpoint.keep=1", "checkpoint.every=1000", *keys])
    tracker = Tracker(folder, attempt=1, resume_step=None)
    return Saving(
        recipe, {"policy": fake_model("policy", said)}, fake_data(said), {"train": 100}, tracker,
        Coordinator(folder, recipe.checkpoint.keep, Mine()), Progress(total_steps=total), Throughput(num_gpus=1),
    )  # fmt: skip


def run(session: Saving, name: str, values: list[float]) -> list[int]:
    """The checkpoints that are there after evaluations with these values, one a step."""
    for value in values:
        if not session.going_on:
            break
        session.progress.finish(position=1, num_tokens=1, optimizer_steps=1)
        note_evaluation(session, {"loss": 1.0, name: value})
        session.checkpoint_if_due()
    return sorted(int(path.name[-8:]) for path in session.coordinator.folder.glob("step_*"))


@pytest.mark.parametrize(("name", "values", "best"), [
    ("loss", [3.0, 1.0, 2.0, 1.0, float("nan")], Best(2, 1.0, 5, 3, "loss")),  # a tie goes to the earlier
    ("rewards/accuracies", [0.2, 0.9, 0.4, 0.8, 0.1], Best(2, 0.9, 5, 3, "rewards/accuracies")),
])  # fmt: skip
def test_the_best_checkpoint_stays_and_is_the_result(
    tmp_path: Path, said: Said, name: str, values: list[float], best: Best
) -> None:
    one = session(tmp_path, said, f"evaluation.best={name}", total=5)
    assert run(one, name, values) == [2, 5], "every better one was kept while it was the best; the last always is"
    assert one.progress.best == best
    take_best(one)
    [load] = said.asked(ModelVerbs.load)
    assert load.args == (str(tmp_path / "checkpoints" / step_name(2)),)
    assert one.result_step == 2


def test_the_last_step_as_the_best_needs_no_going_back(tmp_path: Path, said: Said) -> None:
    one = session(tmp_path, said, "evaluation.best=loss", total=2)
    assert run(one, "loss", [3.0, 1.0]) == [2]
    take_best(one)
    assert not said.asked(ModelVerbs.load)
    assert one.result_step is None


def test_evaluations_without_a_better_one_end_the_run(tmp_path: Path, said: Said) -> None:
    one = session(tmp_path, said, "evaluation.best=loss", "evaluation.patience=2")
    assert run(one, "loss", [3.0, 1.0, 2.0, 0.5, 0.6, 0.7, 0.1]) == [4, 6]
    assert (one.progress.step, one.progress.total_steps, one.progress.ended_of) == (6, 6, 20)


def test_the_start_does_not_count_and_no_step_counts_twice(tmp_path: Path, said: Said) -> None:
    one = session(tmp_path, said, "evaluation.best=loss")
    note_evaluation(one, {"loss": 0.1})
    assert one.progress.best == Best()
    run(one, "loss", [3.0, 4.0])
    seen = one.progress.best
    note_evaluation(one, {"loss": 0.1})  # the same step once more, after a restart
    assert one.progress.best == seen == Best(1, 3.0, 2, 1, "loss")


@pytest.mark.parametrize(("values", "failing", "best", "there"), [
    ([3.0, 2.0, 1.0, 2.5, 2.6], 3, Best(2, 2.0, 5, 2, "loss"), [2, 5]),
    ([3.0, 2.0, 1.0, 1.5, 2.6], 3, Best(4, 1.5, 5, 1, "loss"), [4, 5]),
    ([3.0, 2.0], 1, Best(2, 2.0, 2, 0, "loss"), [2]),
])  # fmt: skip
def test_a_best_step_that_could_not_be_saved_is_not_the_best(
    tmp_path: Path, said: Said, values: list[float], failing: int, best: Best, there: list[int]
) -> None:
    one = session(tmp_path, said, "evaluation.best=loss", total=len(values))
    one.failing = failing
    assert run(one, "loss", values) == there, "the former best stays while there is no better one on the disk"
    assert (one.progress.best, one.coordinator.pinned) == (best, best.step)
    take_best(one)
    assert one.result_step == (best.step if best.step < len(values) else None)


def test_a_best_last_step_needs_no_checkpoint(tmp_path: Path, said: Said) -> None:
    one = session(tmp_path, said, "evaluation.best=loss", total=2)
    one.failing = 2
    run(one, "loss", [3.0, 1.0])
    take_best(one)
    assert (one.progress.best.step, one.result_step, said.asked(ModelVerbs.load)) == (2, None, [])


def test_another_metric_begins_anew(tmp_path: Path, said: Said) -> None:
    """As after a resume with another ``evaluation.best``: a share of 0.4 is not held against a loss of 2.3."""
    one = session(tmp_path, said, "evaluation.best=loss", total=4)
    run(one, "loss", [2.3, 2.5])
    later = session(tmp_path, said, "evaluation.best=rewards/accuracies", "evaluation.patience=2", total=4)
    later.progress.restore(one.progress.state())
    take_best(later)
    assert later.result_step is None, "nobody asked for the best loss"
    run(later, "rewards/accuracies", [0.4, 0.3])
    assert later.progress.best == Best(3, 0.4, 4, 1, "rewards/accuracies")
    assert later.going_on is False
    assert later.progress.ended_of == 0, "one without a better one is not two"


def test_a_metric_that_is_not_there_is_said_before_the_first_step(tmp_path: Path, said: Said) -> None:
    one = session(tmp_path, said, "evaluation.best=rewards/acuracies")
    with pytest.raises(UserError, match="did you mean rewards/accuracies"):
        note_evaluation(one, {"loss": 1.0, "rewards/accuracies": 0.5})


@pytest.mark.parametrize(("damage", "told"), [
    (shutil.rmtree, "is not there any more"),
    (lambda path: (path / "weights").write_text("?"), "weights was changed"),
])  # fmt: skip
def test_a_best_checkpoint_that_cannot_be_read_is_no_result(tmp_path: Path, said: Said, damage: Any, told: str) -> None:
    one = session(tmp_path, said, "evaluation.best=loss", total=2)
    run(one, "loss", [1.0, 2.0])
    damage(tmp_path / "checkpoints" / step_name(1))
    with pytest.raises(RunFailed, match=told) as caught:
        take_best(one)
    assert caught.value.would_repeat
    assert "evaluation.best=null" in str(caught.value)
