"""A process that saves checkpoints is killed at the calls that change the file system, and the power is cut there: what
is found afterwards is whole, of one save, and never older than what had been committed."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from distft.checkpoint.coordinator import Coordinator
from distft.checkpoint.layout import aside, checkpoints_folder, published
from distft.checkpoint.listing import list_checkpoints
from distft.checkpoint.manifest import faults
from tests.harness.cuts import may_trace, tear_unsynced
from tests.harness.owner import Mine
from tests.harness.torn import STORY, begin, numbers, save

pytestmark = pytest.mark.skipif(bool(may_trace()), reason=may_trace())
SEED, FEW = 14, 32


@dataclass(frozen=True)
class Lives:
    """``count``: how many cuts there are; ``made``: those that were made, by the run folder that each left."""

    count: int
    made: dict[Path, str]


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("start") / "run"
    begin(run)
    return run


def cut(name: str, start: Path, workplace: Path, *chosen: int) -> Lives:
    workplace.mkdir()
    words = [sys.executable, "-m", "tests.harness.torn", name, str(start), str(workplace), *map(str, chosen)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    return Lives(told["count"], {Path(run): name for run, name in told["made"].items()})


def assert_whole(run: Path, name: str, allowed: set[tuple[int, int]]) -> None:
    """What a start finds in the folder; then it goes on."""
    list_checkpoints(run)
    coordinator = Coordinator(run, 2, Mine(), attempt=9)
    coordinator.abandon_staging()
    found = coordinator.newest()
    assert found is not None, name
    assert found.rejected == (), name
    assert faults(found.path) == []
    assert (found.step, found.progress["number"]) in allowed, name
    assert numbers(found.path) == {found.progress["number"]}, name
    assert {entry.kind for entry in aside(coordinator.folder)} <= {"superseded"}, name
    save(coordinator, 50, 6)
    assert [step for step, _ in published(coordinator.folder)] == [50, found.step], name
    assert sorted(path.name for path in coordinator.folder.iterdir() if path.name != ".trash") == sorted(
        path.name for _, path in published(coordinator.folder)
    ), name
    assert not list((coordinator.folder / ".trash").glob("*")), name


def assert_whole_after(run: Path, name: str) -> bool:
    """Whether anything was lost with the power: both are looked at, the folder as it is and what a power cut leaves."""
    said = run.with_suffix(".said").read_bytes()
    act = said[0] if said else 0
    allowed = {STORY[act], STORY[act + 1]}
    shutil.copytree(run, run.with_name(f"{run.name}-killed"), symlinks=True)
    assert_whole(run.with_name(f"{run.name}-killed"), name, allowed)
    torn = tear_unsynced(run.with_suffix(".log"), run)
    assert_whole(run, f"{name}, power cut", allowed)
    return bool(torn)


def test_cut_at_seeded_calls(start: Path, tmp_path: Path) -> None:
    lives = cut("story", start, tmp_path / "lives", FEW, SEED)
    assert lives.count >= 200
    assert len(lives.made) == FEW
    torn = [assert_whole_after(run, name) for run, name in lives.made.items()]
    assert any(torn)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_cut_at_every_call(start: Path, tmp_path: Path) -> None:
    lives = cut("story", start, tmp_path / "lives")
    assert lives.count == len(lives.made) >= 200
    left: dict[tuple[str, ...], Path] = {}
    for run in lives.made:  # one of each kind of what is left lying about
        kinds = sorted(entry.kind for entry in aside(checkpoints_folder(run)))
        trash = checkpoints_folder(run) / ".trash"
        left[*kinds, *(["trash"] if trash.is_dir() and list(trash.iterdir()) else [])] = run
    assert ("replaced", "staging") in left
    assert len(left) >= 5
    again = tmp_path / "again"
    again.mkdir()
    for number, run in enumerate(left.values()):
        shutil.copytree(run, again / f"{number}", symlinks=True)
    said = [run.with_suffix(".said").read_bytes() for run in left.values()]
    torn = [assert_whole_after(run, name) for run, name in lives.made.items()]
    assert sum(torn) >= 20
    print(f"{lives.count} cuts of the story, {sum(torn)} of them with something unsynced lost besides")
    for number, heard in enumerate(said):
        act = heard[0] if heard else 0
        second = cut("recovery", again / f"{number}", tmp_path / f"second-{number}")
        print(f"recovery of {list(left)[number]}: {second.count} cuts")
        for run, name in second.made.items():
            assert_whole(run, f"recovery, {name}", {STORY[act], STORY[act + 1]})
