"""What is decided when a run goes back, in which order, and what counts afterwards."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from distft.checkpoint.coordinator import Coordinator
from distft.checkpoint.layout import published
from distft.common.errors import RunFailed, UserError
from distft.controller.failed_steps import failed_step
from distft.controller.progress import Progress, Skipped
from distft.controller.rollback import ROLLBACKS, GoBack, Rollback, left_behind, read_rollbacks, write_rollbacks
from distft.controller.session import Session
from distft.controller.spikes import rollback_of
from distft.launch.rollbacks import Rollbacks, gone_back_where_it_may
from distft.tracking.tracker import Tracker
from tests.harness.fake_groups import Said
from tests.harness.owner import Mine
from tests.unit.checkpoint.conftest import save
from tests.unit.controller.test_rl import session

ONE = Rollback(5, 7, 32, 56, "policy", "the loss of the policy jumped to 9; 2 is usual")
TWO = Rollback(4, 6, 24, 72, "value", "the loss of the value jumped to 9; 2 is usual")


def steps(folder: Path) -> list[int]:
    return [step for step, _ in published(folder / "checkpoints")]


def at(step: int) -> Progress:
    """Eight units a step."""
    progress = Progress(total_steps=40)
    for done in range(1, step + 1):
        progress.finish(position=8 * done, num_tokens=1, optimizer_steps=1)
    return progress


def state(step: int, *made: Rollback) -> dict[str, Any]:
    progress = at(step)
    progress.rollbacks = made
    return progress.state()


def test_the_step_before_the_first_bad_one_is_left_out_too() -> None:
    assert rollback_of(at(7), 6, 7, 56, "policy", ONE.why) == ONE
    assert rollback_of(at(2), 1, 2, 16, "policy", "x") == Rollback(1, 2, 0, 16, "policy", "x")
    assert rollback_of(at(2), 2, 2, 16, "policy", "x") == Rollback(1, 2, 0, 16, "policy", "x")


def test_a_checkpoint_counts_by_what_was_left_out_since() -> None:
    """One of step 4 knows nothing of what came out as bad later, and is of before; one of step 5 is not."""
    made = (ONE, TWO)
    assert left_behind(3, state(3), made) is None
    assert left_behind(4, state(4), made) == 4
    assert left_behind(4, state(4, ONE), (ONE,)) is None
    assert left_behind(9, state(9, ONE), made) == 4
    assert left_behind(9, state(9, ONE, TWO), made) is None
    assert left_behind(4, {"step": 4}, (ONE,)) is None
    assert left_behind(5, {"step": 5}, (ONE,)) == 5, "written before there was such a thing"


def test_a_run_that_was_killed_before_its_checkpoints_stepped_aside_follows_its_decision(tmp_path: Path) -> None:
    coordinator = Coordinator(tmp_path, 9, Mine())
    for step in (2, 4, 6):
        save(coordinator, step, progress=state(step))
    write_rollbacks(tmp_path, [ONE])
    rollbacks = Rollbacks(tmp_path, goes_on=True)
    assert rollbacks.made == (ONE,)
    rollbacks.follow(coordinator)
    assert steps(tmp_path) == [4, 2]
    save(coordinator, 6, progress=state(6, ONE))
    rollbacks.follow(coordinator)
    assert steps(tmp_path) == [6, 4, 2]


def test_the_decision_is_on_the_disk_before_anything_steps_aside(tmp_path: Path) -> None:
    class Watched(Coordinator):
        def rewind(self, step: int) -> list[Path]:
            seen.append((step, read_rollbacks(tmp_path)))
            return super().rewind(step)

    seen: list[tuple[int, tuple[Rollback, ...]]] = []
    coordinator = Watched(tmp_path, 9, Mine())
    for step in (4, 6):
        save(coordinator, step, progress=state(step))
    for step in (4, 7, 8):
        failed_step(tmp_path, step).mkdir(parents=True)
        (failed_step(tmp_path, step) / "rows.json").write_text(str(step))
    with Tracker(tmp_path, attempt=1, resume_step=None) as tracker:
        Rollbacks(tmp_path, goes_on=True).go_back(ONE, coordinator, tracker, 2)
    assert seen == [(4, (ONE,))]
    assert steps(tmp_path) == [4]
    assert (tmp_path / "rollbacks/1/step_00000007/rows.json").read_text() == "7"
    assert (tmp_path / "rollbacks/1/step_00000008/rows.json").read_text() == "8", "read ahead"
    assert failed_step(tmp_path, 4).is_dir()
    (event,) = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    assert {key: event[key] for key in ("event", "number", "step", "role", "left_out", "units", "cause")} == {
        "event": "rollback", "number": 1, "step": 7, "role": "policy", "left_out": "steps 5 to 7", "units": 24,
        "cause": ONE.why,
    }  # fmt: skip


def test_a_start_from_what_the_user_names_leaves_out_what_that_did(tmp_path: Path) -> None:
    coordinator = Coordinator(tmp_path, 9, Mine())
    save(coordinator, 9, progress=state(9, ONE))
    write_rollbacks(tmp_path, [ONE, TWO])
    rollbacks = Rollbacks(tmp_path, goes_on=False)
    assert rollbacks.made == ()
    rollbacks.begin_at(coordinator.newest())
    assert rollbacks.made == read_rollbacks(tmp_path) == (ONE,)
    rollbacks.begin_at(None)
    assert rollbacks.made == read_rollbacks(tmp_path) == ()
    assert not (tmp_path / ROLLBACKS).exists()


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"rollbacks": [{"first": 1}]}'])
def test_a_damaged_record_is_a_message(tmp_path: Path, content: str) -> None:
    (tmp_path / ROLLBACKS).write_text(content)
    with pytest.raises(UserError, match=r"record of the data that it leaves out cannot be read.*\n.*resume=never"):
        Rollbacks(tmp_path, goes_on=True)
    Rollbacks(tmp_path, goes_on=False).begin_at(None)
    assert read_rollbacks(tmp_path) == ()


def going(folder: Path, *made: Rollback) -> Session:
    run = session(Said(), folder, "train.steps=40", "recovery.rollback=2", "checkpoint.keep=20")
    run.progress = at(6)
    run.progress.rollbacks = made
    run.ends[7] = 56
    return run


def test_too_many_batches_that_are_no_numbers_send_it_back_while_it_may(tmp_path: Path) -> None:
    failure = RunFailed("the loss is nan: the step was not taken\n  do", role="value", kind="diverged")
    run = going(tmp_path, ONE)
    run.progress.skipped["value"] = Skipped(9, 1)
    with pytest.raises(GoBack) as ended, gone_back_where_it_may(run, tmp_path):
        raise failure
    assert ended.value.rollback == Rollback(5, 7, 32, 56, "value", "the loss is nan: the step was not taken")
    with pytest.raises(RunFailed) as last, gone_back_where_it_may(going(tmp_path, ONE, TWO), tmp_path):
        raise failure
    assert last.value is failure
    assert str(failure).endswith("recovery.rollback=2 allows no further rollback")


def test_a_spike_after_the_last_rollback_ends_the_run(tmp_path: Path) -> None:
    with pytest.raises(GoBack), gone_back_where_it_may(going(tmp_path, ONE), tmp_path):
        raise GoBack(TWO, 5)
    with pytest.raises(RunFailed) as ended, gone_back_where_it_may(going(tmp_path, ONE, TWO), tmp_path):
        raise GoBack(TWO, 5)
    assert (ended.value.kind, ended.value.role) == ("spike", "value")
    assert "jumped to 9; 2 is usual; recovery.rollback=2 allows no further rollback\n" in str(ended.value)
    assert f"distft replay {tmp_path} 5 runs it again" in str(ended.value)


@pytest.mark.parametrize("kind", ["death", "exception"])
def test_other_failures_are_left_as_they_are(tmp_path: Path, kind: str) -> None:
    failure = RunFailed("died", role="policy", kind=kind)
    with pytest.raises(RunFailed) as ended, gone_back_where_it_may(going(tmp_path), tmp_path):
        raise failure
    assert ended.value is failure
