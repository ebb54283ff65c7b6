"""A job's end is seen before it comes, and the session stops with a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from distft.common.errors import StoppedOnRequest
from distft.config.load import load_recipe
from distft.controller.progress import Progress
from distft.controller.session import Session
from distft.controller.time_limit import MARGIN_S, TimeLimit


def test_no_limit_without_the_variable() -> None:
    assert TimeLimit.of({}).end is None
    assert TimeLimit.of({"DISTFT_END_TIME": "soon"}).end is None
    assert TimeLimit.of({"DISTFT_END_TIME": "1800000000"}).end == 1_800_000_000.0
    assert TimeLimit().too_near() == ""


@pytest.mark.parametrize(("left", "near"), [(100.0 + MARGIN_S, False), (99.0 + MARGIN_S, True), (-5.0, True)])
def test_the_longest_step_and_the_longest_save_must_still_fit(left: float, near: bool) -> None:
    limit = TimeLimit(1000.0, clock=lambda: 1000.0 - left)
    for seconds in (10.0, 70.0, 20.0):
        limit.saw_step(seconds)
    for seconds in (30.0, 5.0):
        limit.saw_save(seconds)
    assert bool(limit.too_near()) is near
    if near:
        assert "a step takes up to 70.0 s and a checkpoint 30.0 s" in limit.too_near()


@pytest.mark.parametrize(("settling", "beside", "needed"), [
    (False, False, 50.0),  # a step of 10 s and a save of 40 s
    (False, True, 80.0),  # a save is written while the step runs, and the last one after it
    (True, True, 120.0),  # and the one before it has to end first
])  # fmt: skip
def test_a_save_beside_the_step_must_have_ended_before_the_last(*, settling: bool, beside: bool, needed: float) -> None:
    for left, near in ((needed, False), (needed - 1, True)):
        limit = TimeLimit(1000.0, 10.0, 40.0, clock=lambda left=left: 1000.0 - left - MARGIN_S)
        assert bool(limit.too_near(settling=settling, beside=beside)) is near


def test_before_the_first_save_it_counts_as_long_as_a_step() -> None:
    limit = TimeLimit(1000.0, clock=lambda: 1000.0 - 2 * 40.0 - MARGIN_S + 1)
    limit.saw_step(40.0)
    assert limit.too_near()


class _Saving(Session):
    saves: int = 0

    def save(self) -> None:
        self.saves += 1


def session(step: int, limit: TimeLimit, failed_saves: int = 0) -> _Saving:
    recipe = load_recipe("sft-tiny", ["checkpoint.every=10"])
    nothing: Any = None
    progress = Progress(total_steps=20, step=step, failed_saves=failed_saves)
    made = _Saving(recipe, {}, nothing, {}, nothing, nothing, progress, nothing)
    made.time_limit = limit
    return made


def near() -> TimeLimit:
    return TimeLimit(1000.0, longest_step=5.0, clock=lambda: 999.0)


def test_the_session_saves_and_stops_by_itself() -> None:
    one = session(3, near())
    with pytest.raises(StoppedOnRequest, match="stopped after step 3 with a checkpoint.*1 s of the job's time") as stop:
        one.checkpoint_if_due()
    assert one.saves == 1
    assert stop.value.exit_status == 75


def test_a_save_that_failed_is_not_called_a_checkpoint() -> None:
    with pytest.raises(StoppedOnRequest, match="without a checkpoint"):
        session(3, near(), failed_saves=1).checkpoint_if_due()


def test_the_last_step_is_not_stopped_after() -> None:
    one = session(20, near())
    one.checkpoint_if_due()
    assert one.saves == 1, "step 20 of every 10"


def test_with_time_enough_nothing_happens(tmp_path: Path) -> None:
    one = session(3, TimeLimit(1000.0, longest_step=5.0, clock=lambda: 0.0))
    one.checkpoint_if_due()
    assert one.saves == 0
