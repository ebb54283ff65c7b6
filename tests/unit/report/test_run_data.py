"""A run folder as a report reads it: complete, incomplete, damaged, none."""

from __future__ import annotations

from pathlib import Path

import pytest

from distft.checkpoint.lease import acquire
from distft.checkpoint.manifest import Manifest
from distft.checkpoint.role_layout import RoleLayout
from distft.common.errors import RunFailed, UserError
from distft.report.run_data import read_run
from distft.tracking.exit import Ending
from tests.unit.report.conftest import MakeRun


def test_a_whole_run_has_nothing_to_note(make_run: MakeRun) -> None:
    run = read_run(make_run())
    assert run.notes == ()
    assert (run.kind, run.status.state, run.ledger.num_steps) == ("ppo", "done", 5)
    assert run.table["objective/score"] == (0.0, 5.0)
    assert run.plan is not None
    assert run.event("ready")["total_steps"] == 5


def test_what_is_missing_or_damaged_is_said(make_run: MakeRun) -> None:
    run_dir = make_run(ending=None)
    (run_dir / "plan.json").write_text('{"format": 0}')
    (run_dir / "recipe.yaml").unlink()
    (run_dir / "before_after.json").unlink()
    (run_dir / "environment.json").write_text("[]")
    with (run_dir / "metrics.jsonl").open("a") as file:
        file.write('{"step": 6, "los')
    run = read_run(run_dir)
    said = " ".join(run.notes)
    for words in ("without a word", "recipe.yaml is missing", "plan.json is of another",
                  "torn by a crash?): 1 line.",
                  "have not been judged"):  # fmt: skip
        assert words in said
    assert (run.plan, run.recipe, run.environment) == (None, {}, {})


def test_a_run_that_goes_on(make_run: MakeRun) -> None:
    run_dir = make_run(ending=None)
    with acquire(run_dir):
        assert "not over (running)" in read_run(run_dir).notes[0]


def test_a_failed_one(make_run: MakeRun) -> None:
    failed = Ending.of(RunFailed("out of memory", role="policy", rank=1, node="n1"))
    assert "did not finish: it failed after step 5" in read_run(make_run(ending=failed)).notes[0]


def test_where_a_failed_one_goes_on(make_run: MakeRun) -> None:
    run_dir = make_run(ending=Ending.of(RunFailed("killed", role="policy", rank=1, node="n1")))
    assert "goes on" not in read_run(run_dir).notes[0]
    folder = run_dir / "checkpoints" / "step_00000004"
    folder.mkdir(parents=True)
    Manifest(4, (), {"policy": RoleLayout(2, 3)}, "f", "o", 1, 1.0).write(folder)
    assert read_run(run_dir).notes[0].endswith("The same command goes on from the checkpoint of step 4.")


def test_a_run_that_never_stepped(make_run: MakeRun) -> None:
    run_dir = make_run()
    (run_dir / "metrics.jsonl").write_text("")
    assert any("holds no step" in note for note in read_run(run_dir).notes)


def test_a_folder_that_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no run lies in this folder"):
        read_run(tmp_path)
