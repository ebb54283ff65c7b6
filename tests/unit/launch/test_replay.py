"""What a replay refuses before anything is started, and what it takes for the run's own layout."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from distft.checkpoint.lease import acquire
from distft.common.errors import UserError
from distft.config.load import load_recipe
from distft.launch.prepare import prepare
from distft.launch.replay import REPLAY, Wish, prepare_replay
from distft.launch.run_folder import write_recipe
from distft.tracking.metrics import EVENTS, EventsLog


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The folder of a run that has been planned."""
    folder = tmp_path / "runs" / "a"
    folder.mkdir(parents=True)
    recipe = load_recipe("sft-tiny", ["train.steps=9", f"output_dir={folder}"])
    write_recipe(recipe, folder)
    (folder / "plan.json").write_text(prepare(recipe, "local").plan.model_dump_json())
    return folder


def refusal(run: Path, step: int = 3, output: Path | None = None) -> str:
    with pytest.raises(UserError) as refused:
        prepare_replay(Wish(run, step, output=output))
    return str(refused.value)


def test_what_is_no_run_or_no_step_of_it(run: Path) -> None:
    assert refusal(run.with_name("aa")) == f"{run.with_name('aa')}: holds no recipe.yaml\n  did you mean {run}?"
    assert refusal(run.parent) == f"{run.parent}: holds no recipe.yaml\n  give the folder of a run"
    for step in (0, 10):
        assert refusal(run, step) == f"{run}: the run has no step {step}\n  steps are 1 to 9"


def test_a_run_that_goes_on_is_waited_for(run: Path) -> None:
    """It may delete the checkpoint that the replay begins from."""
    with acquire(run):
        assert f"wait for its end, or distft cancel {run}" in refusal(run)
    prepare_replay(Wish(run, 3))


def test_nothing_is_written_where_the_run_lies_or_over_something_else(run: Path, tmp_path: Path) -> None:
    (run / REPLAY).write_text("{}")  # a replay may be run again, too
    for folder in (run, run / "again", run.parent):
        assert "a replay writes nothing where the run lies" in refusal(run, output=folder)
    file, other = tmp_path / "file", tmp_path / "other"
    file.touch()
    other.mkdir()
    (other / "thesis.tex").touch()
    assert refusal(run, output=file).startswith(f"{file}: is no folder")
    assert refusal(run, output=other).startswith(f"{other}: holds something else than a replay")


Event = tuple[str, dict[str, object]]
ANEW: Event = ("resume", {"step": 4, "changed": {"policy": "2 ranks -> 1 rank"}})


@pytest.mark.parametrize(("events", "same"), [
    ([], True),
    ([("ready", {"step": 0}), ("resume", {"step": 4, "changed": {}}), ("ready", {"step": 4})], True),
    ([("ready", {"step": 0}), ANEW, ("ready", {"step": 4})], False),
    ([("ready", {"step": 0}), ANEW, ("ready", {"step": 4}), ("ready", {"step": 2})], True),
    ([("ready", {"step": 2}), ("replanned", {"ranks": {"policy": "2 -> 1"}})], False),
])  # fmt: skip
def test_a_step_logged_before_another_layout_is_not_compared_bit_for_bit(
    run: Path, events: Sequence[Event], same: bool
) -> None:
    """The plan in the folder is of the last start. Step 3."""
    log = EventsLog(run, 1)
    for name, fields in events:
        log.write(name, **fields)
    log.close()
    with (run / EVENTS).open("a") as torn:
        torn.write('{"event": "resu')
    assert prepare_replay(Wish(run, 3)).same_layout is same
