"""The whole run folder on a disk of its own that fills, cannot be written, or is suddenly somewhere else."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from distft.cli import main
from tests.e2e.conftest import SFT, Start, Verb, checkpoints, computed, events, exit_record, lines, starting, weights
from tests.harness.disks import fill, mounted, small_disk

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]
# A save a second, so that a test sees the first that fails before the third in a row ends the run.
LONG = ("train.steps=100", "checkpoint.every=10", "checkpoint.keep=2")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A run folder on a disk of 8 MB."""
    folder = tmp_path / "run"
    folder.mkdir()
    with small_disk(folder, 8, busy=True):
        yield folder


@pytest.fixture
def mounts() -> Iterator[contextlib.ExitStack]:
    """What is mounted in it is not any more at the end."""
    with contextlib.ExitStack() as stack:
        yield stack


def in_step(verb: Verb, step: int) -> None:
    """Waits until a checkpoint of this step is committed."""
    verb.wait_for(lambda: step in checkpoints(verb.folder), f"checkpoint of step {step}")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with starting(tmp_path_factory.mktemp("whole")) as start:
        verb = start(*SFT, *LONG)
        assert verb.end() == 0, verb.output
        yield verb.folder


@pytest.mark.slow
@pytest.mark.parametrize("asynchronous", ["false", "true"])
def test_a_disk_that_is_full_for_a_while(whole: Path, disk: Path, asynchronous: str, start: Start) -> None:
    """Ledgers, logs, W&B and checkpoints alike: what could not be written is said, and caught up with."""
    verb = start(*SFT, *LONG, f"checkpoint.asynchronous={asynchronous}")
    in_step(verb, 20)
    filler = fill(disk)
    verb.wait_for(lambda: re.search(r"checkpoint of step \d+: policy rank", verb.output), "a failed save")
    before = checkpoints(disk)
    filler.unlink()
    assert verb.end() == 0, verb.output
    assert before
    assert "Traceback" not in verb.output
    failed = [event["step"] for event in events(disk, "checkpoint_failed")]
    assert 1 <= len(failed) < 3
    assert exit_record(disk)["exit_status"] == 0
    assert [line["step"] for line in lines(disk, "metrics") if line["split"] == "train"] == list(range(1, 101))
    assert computed(disk) == computed(whole)
    assert weights(disk) == weights(whole)
    assert checkpoints(disk) == checkpoints(whole)


@pytest.mark.slow
@pytest.mark.parametrize("asynchronous", ["false", "true"])
def test_a_disk_that_stays_full(whole: Path, disk: Path, asynchronous: str, start: Start) -> None:
    verb = start(*SFT, *LONG, f"checkpoint.asynchronous={asynchronous}")
    in_step(verb, 20)
    filler = fill(disk)
    assert verb.end() == 1, verb.output
    assert "3 checkpoints in a row failed" in verb.output
    assert "Traceback" not in verb.output
    verb.assert_nothing_left()
    filler.unlink()
    verb = start(*SFT, *LONG, f"checkpoint.asynchronous={asynchronous}")
    assert verb.end() == 0, verb.output
    assert events(disk, "resume")
    assert computed(disk) == computed(whole)
    assert weights(disk) == weights(whole)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["moved", "unmounted"])
def test_a_folder_that_vanishes(
    whole: Path, tmp_path: Path, how: str, start: Start, mounts: contextlib.ExitStack
) -> None:
    """It ends and writes nothing into a folder that is not its own any more; put back, the run goes on."""
    run, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    run.mkdir()
    if how == "unmounted":
        elsewhere.mkdir()
        mounts.enter_context(small_disk(elsewhere, 64, busy=True))
        mounts.enter_context(mounted(run, "--bind", str(elsewhere), busy=True))
    verb = start(*SFT, *LONG)
    in_step(verb, 20)
    if how == "moved":
        os.rename(run, elsewhere)
    else:
        subprocess.run(["umount", "-l", str(run)], check=True)
    assert verb.end() == 1, verb.output
    assert str(run) in verb.output
    assert "Traceback" not in verb.output
    verb.assert_nothing_left()
    assert [*run.rglob("*")] == []
    kept = checkpoints(elsewhere)
    assert kept
    if how == "moved":
        os.rename(elsewhere, run)
    else:
        mounts.enter_context(mounted(run, "--bind", str(elsewhere), busy=True))
    verb = start(*SFT, *LONG)
    assert verb.end() == 0, verb.output
    assert [event["step"] for event in events(run, "resume")] == [kept[-1]]
    assert computed(run) == computed(whole)
    assert weights(run) == weights(whole)


def test_a_disk_that_cannot_be_written(
    sft: Path,
    tmp_path: Path,
    mounts: contextlib.ExitStack,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A run is refused before anything starts; what only reads, reads; what would write there says so."""
    there = tmp_path / "there"
    there.mkdir()
    monkeypatch.chdir(tmp_path)
    mounts.enter_context(small_disk(there, 64, busy=True))
    subprocess.run(["cp", "-r", str(sft), str(there / "run")], check=True)
    subprocess.run(["mount", "-o", "remount,ro", str(there)], check=True)
    run = str(there / "run")
    for words, status, told in (
        (["train", *SFT[1:], f"output_dir={there / 'new'}"], 2, "cannot be"),
        (["train", *SFT[1:], f"output_dir={run}", "train.steps=8", "checkpoint.resume=never"], 2, "cannot be"),
        (["status", run], 0, ""),
        (["checkpoints", run], 0, ""),
        (["compare", run, str(sft), "--html", str(tmp_path / "page.html")], 0, ""),
        (["export", run, str(tmp_path / "out")], 0, ""),
        (["report", run], 3, "read-only"),
        (["compare", run, str(sft), "--html", f"{run}/page.html"], 3, "read-only"),
        (["export", run, f"{run}/out"], 3, "read-only"),
        (["cancel", run], 0, ""),
    ):
        capsys.readouterr()
        assert main(words) == status, (words, capsys.readouterr())
        error = capsys.readouterr().err
        assert "Traceback" not in error
        assert told.lower() in error.lower(), words
