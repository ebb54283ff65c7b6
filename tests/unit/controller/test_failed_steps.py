"""Which batches are kept: of steps that failed before, and of one that ends the run; and until when."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from distft.clients.samples import Samples
from distft.controller.failed_steps import MOST_PASSED, FailedSteps, failed_step
from distft.groups.handles import DataRef, Part
from distft.workers.reports import StepRows
from distft.workers.verbs import DataVerbs
from tests.harness.fake_groups import Said, fake_data
from tests.unit.controller.test_rl import session


def samples(name: str) -> Samples:
    return Samples((DataRef((Part(name, (0, 1)),)),), (5, 5), (0, 1))


def kept(said: Said) -> list[tuple[str, str]]:
    """Folder and columns of all that was asked to be kept."""
    return [(Path(call.args[0]).name, call.data[0].parts[0].ref) for call in said.asked(DataVerbs.keep_step)]


def test_a_step_that_failed_and_the_one_read_ahead_in_it_are_kept_before_they_are_tried(tmp_path: Path) -> None:
    said = Said()
    watched = FailedSteps(tmp_path, [3])
    for step in (2, 3, 4, 5):
        watched.saw(fake_data(said), samples(f"rows {step}"), StepRows(step, 8 * step, 8))
    assert kept(said) == [("step_00000003", "rows 3"), ("step_00000004", "rows 4")]
    watched.saw(fake_data(said), samples("with responses"), StepRows(3, 24, 8))
    assert kept(said)[2:] == [("step_00000003", "with responses")]


def test_what_ends_a_run_is_kept_as_far_as_it_is_under_way(tmp_path: Path) -> None:
    said = Said()
    watched = FailedSteps(tmp_path)
    for step in (1, 2, 3):
        watched.saw(fake_data(said), samples(f"rows {step}"), StepRows(step, 8 * step, 8))
        if step < 3:
            watched.passed(step)
    assert kept(said) == []
    watched.keep(fake_data(said))
    assert kept(said) == [("step_00000003", "rows 3")]


def test_what_passes_is_forgotten_by_a_run_and_not_by_a_replay(tmp_path: Path) -> None:
    folder = failed_step(tmp_path, 3)
    folder.mkdir(parents=True)
    FailedSteps(tmp_path, [3], forgets=False).passed(3)
    assert folder.is_dir()
    FailedSteps(tmp_path).passed(2)
    assert folder.is_dir()
    FailedSteps(tmp_path).passed(3)
    assert not folder.exists()


def test_what_is_passed_without_what_came_out_of_it_stays(tmp_path: Path) -> None:
    said = Said()
    watched = FailedSteps(tmp_path)
    watched.saw(fake_data(said), samples("rows"), StepRows(3, 24, 8))
    for _ in range(2):  # of two roles
        watched.keep_though_passed(fake_data(said), 3)
    assert kept(said) == [("step_00000003", "rows")]
    folder = failed_step(tmp_path, 3)
    folder.mkdir(parents=True)
    watched.passed(3)
    assert folder.is_dir()


def test_of_many_that_are_passed_so_the_first_are_kept(tmp_path: Path) -> None:
    said = Said()
    watched = FailedSteps(tmp_path)
    for step in range(1, MOST_PASSED + 3):
        watched.saw(fake_data(said), samples("rows"), StepRows(step, 8 * step, 8))
        watched.keep_though_passed(fake_data(said), step)
        watched.passed(step)
    assert kept(said) == [(f"step_{step:08}", "rows") for step in range(1, MOST_PASSED + 1)]


def test_a_disk_that_refuses_it_ends_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Full(Said):
        def _report(self, call, samples):  # type: ignore[no-untyped-def]
            return "No space left on device"

    watched = FailedSteps(tmp_path, [3])
    with caplog.at_level(logging.ERROR):
        watched.saw(fake_data(Full()), samples("rows"), StepRows(3, 24, 8))
    assert "the batch of step 3 was not kept: No space left on device" in caplog.text


def test_a_replay_ends_with_its_step_and_saves_nothing(tmp_path: Path) -> None:
    """Though the run goes on: its learning rate depends on how far."""
    replay = session(Said(), tmp_path, "train.steps=5", "tracking.samples_every=0")
    replay.until = 2
    for _ in replay.steps():
        replay.progress.finish(position=4, num_tokens=1, optimizer_steps=1)
        replay.checkpoint_if_due()
    assert (replay.progress.step, replay.progress.total_steps) == (2, 5)
    assert not hasattr(replay, "kept"), "what Saving would keep"
