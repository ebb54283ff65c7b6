"""What is said of the checkpoints of a run."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.console import Console

from distft.checkpoint.layout import checkpoints_folder, step_name
from distft.checkpoint.listing import list_checkpoints
from distft.checkpoint.manifest import Manifest, record_files
from distft.checkpoint.role_layout import RoleLayout
from distft.cli import main
from distft.common.errors import UserError
from distft.verbs.checkpoints_table import show
from tests.harness.damage import flip


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """Three checkpoints; of the newest a file has one bit flipped."""
    for step in (10, 20, 30):
        folder = checkpoints_folder(tmp_path) / step_name(step)
        (folder / "policy").mkdir(parents=True)
        (folder / "policy" / "rank_00.pt").write_bytes(bytes(1000))
        records = record_files(folder, ["policy/rank_00.pt"])
        Manifest(step, tuple(records), {"policy": RoleLayout(2, 3)}, "recipe", "owner", 1, 1e9 + step).write(folder)
    flip(folder / "policy" / "rank_00.pt")
    return tmp_path


def test_the_newest_whole_one_is_next_and_the_damaged_one_says_why(run_dir: Path) -> None:
    found = list_checkpoints(run_dir)
    assert [(one.step, one.is_next) for one in found] == [(30, False), (20, True), (10, False)]
    assert found[0].faults == ("policy/rank_00.pt was changed or damaged: its hash differs",)
    assert found[1].as_json()["bytes"] == 1000
    console = Console(width=160, record=True, file=(run_dir / "shown").open("w"))
    show(found, verified=True, console=console)
    lines = console.export_text().splitlines()
    assert "damaged: policy/rank_00.pt was changed" in lines[1]
    assert "policy 2" in lines[2]
    assert "whole; a resume takes it" in lines[2]


def test_sizes_alone_do_not_see_a_bit(run_dir: Path) -> None:
    assert [one.is_next for one in list_checkpoints(run_dir, hashes=False)] == [True, False, False]


def test_the_verb_says_by_its_status_that_one_is_damaged(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["checkpoints", str(run_dir)]) == 1
    assert "a resume takes it" in capsys.readouterr().out
    assert main(["checkpoints", str(run_dir), "--quick", "--json"]) == 0


def test_no_run_is_one_message(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no checkpoints"):
        list_checkpoints(tmp_path)
    with pytest.raises(UserError, match="no such folder"):
        list_checkpoints(tmp_path / "nothing")
