"""An export that fails says where the weights are."""

from __future__ import annotations

from pathlib import Path

from distft.common.errors import RunFailed
from distft.launch.final import failed_export


def test_the_newest_checkpoint_and_the_command_are_named(tmp_path: Path) -> None:
    for step in (4, 6):
        (tmp_path / "checkpoints" / f"step_{step:08}").mkdir(parents=True)
    newest = tmp_path / "checkpoints" / "step_00000006"
    error = failed_export(OSError(28, "No space left on device"), tmp_path, None)
    assert f"`distft export {newest} FOLDER`" in str(error)
    assert "the weights of step 6" in str(error)
    assert "No space left on device" in str(error)
    assert (error.kind, error.exit_status) == ("export", 1)


def test_the_best_checkpoint_is_named_where_it_is_the_result(tmp_path: Path) -> None:
    for step in (4, 6):
        (tmp_path / "checkpoints" / f"step_{step:08}").mkdir(parents=True)
    best = tmp_path / "checkpoints" / "step_00000004"
    error = failed_export(OSError(28, "No space left on device"), tmp_path, 4)
    assert f"{best} holds the weights of step 4, `distft export {best} FOLDER`" in str(error)


def test_the_worker_that_failed_is_still_named(tmp_path: Path) -> None:
    died = RunFailed("killed", role="policy", rank=1, node="n2", stage="exporting", log="policy-1.log", kind="died")
    error = failed_export(died, tmp_path, None)
    assert (error.role, error.rank, error.node, error.stage, error.log, error.kind) == (
        "policy", 1, "n2", "exporting", "policy-1.log", "died",
    )  # fmt: skip
    assert "the export failed: killed" in str(error)
    assert "no checkpoint could be written either" in str(error)
