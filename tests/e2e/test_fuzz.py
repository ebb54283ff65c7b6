"""Ten thousand files that are wrong, by a seed: whoever reads them says so, or takes them; nobody falls over, hangs, or
writes anywhere else. Two hundred of them are kept, and go through the command."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from distft.checkpoint.coordinator import Coordinator
from distft.cli import main
from distft.common.errors import DistftError
from tests.harness import fuzz_kinds
from tests.harness.fuzz_kinds import KINDS, copied, corpus, written
from tests.harness.fuzzing import fault_of, watched
from tests.harness.owner import Mine
from tests.unit.checkpoint.conftest import save

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(3600)]
FEW, MANY = 60, 2000  # of each of the five kinds
AS_THEY_ARE = {
    "mutated_yaml": lambda text, _: text.encode(), "mutated_json": lambda text, _: text.encode(),
    "mutated_bytes": lambda content, _: content, "mutated_lines": lambda lines, _: ("\n".join(lines) + "\n").encode(),
}  # fmt: skip


@pytest.fixture(scope="module")
def whole(sft: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working directory with a run, two checkpoints in it, nothing wrong."""
    folder = tmp_path_factory.mktemp("whole")
    copied(sft, folder / "run")
    coordinator = Coordinator(folder / "run", 2, Mine())
    for step in (10, 20):
        save(coordinator, step)
    return folder


@pytest.fixture
def here(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The working directory: a copy of the whole one, the only folder that anything may be written into."""
    folder = Path(shutil.copytree(whole, tmp_path / "here"))
    monkeypatch.chdir(folder)
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    for name in ("RAY_ADDRESS", "SLURM_JOB_ID"):
        monkeypatch.delenv(name, raising=False)
    return folder


def again(whole: Path, here: Path) -> None:
    """The run folder as it was before a case."""
    shutil.rmtree(here / "run")
    shutil.copytree(whole / "run", here / "run")


def ends(words: tuple[str, ...]) -> tuple[int, ...]:
    """The exit statuses that a command may have; ``checkpoints`` says by 1 that one is damaged."""
    return (0, 1, 2) if words[0] == "checkpoints" else (0, 2, 3)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("times", [FEW, pytest.param(MANY, marks=pytest.mark.slow)])
def test_in_this_process(whole: Path, here: Path, times: int, kind: str) -> None:
    faults: Counter[str] = Counter()
    seeds: dict[str, int] = {}
    for seed in range(times):
        written(KINDS[kind].make(random.Random(f"{kind} {seed}"), whole))
        if fault := fault_of(KINDS[kind].read, here):
            faults[fault] += 1
            seeds.setdefault(fault, seed)
    assert not faults, "\n".join(f"{count} x, first seed {seeds[fault]}: {fault}" for fault, count in faults.items())


@pytest.mark.parametrize("kind", KINDS)
def test_what_nothing_is_wrong_with_is_taken(
    whole: Path, here: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or a refusal of all of them would look like a message for what is wrong."""
    for name, as_it_is in AS_THEY_ARE.items():
        monkeypatch.setattr(fuzz_kinds, name, as_it_is)
    refused = []
    for seed in range(40):
        written(KINDS[kind].make(random.Random(f"{kind} {seed}"), whole))
        try:
            KINDS[kind].read()
        except DistftError as error:
            refused.append(f"seed {seed}: {error}")
    assert refused == []


@pytest.mark.parametrize("every", [5, pytest.param(1, marks=pytest.mark.slow)])
def test_what_is_kept_through_the_verbs(
    whole: Path, here: Path, every: int, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong, count = [], 0
    for number, (kind, files) in list(enumerate(corpus()))[::every]:
        again(whole, here)
        written(files)
        for words in KINDS[kind].commands:
            count += 1
            with watched(here) as outside:
                status = main(words)
            told = capsys.readouterr().err
            if status not in ends(words) or "Traceback" in told or "\x1b" in told or outside:
                wrong.append(f"{number} ({kind}), {words}: {status} {outside[:1]} {told[-500:]}")
    assert not wrong, "\n".join(wrong)
    assert count >= 200 / every


@pytest.mark.slow
def test_what_is_kept_through_the_command(whole: Path, here: Path) -> None:
    """In a process of its own, whose home, temporary folder and working directory are one folder; the rest of the
    file system is looked at by what changed in the folder above it."""
    home = {"HOME": str(here), "TMPDIR": str(here), "XDG_CACHE_HOME": str(here), "HF_HUB_OFFLINE": "1"}
    wrong, cases = [], list(corpus())
    assert len(cases) >= 200
    for number, (kind, files) in enumerate(cases):
        again(whole, here)
        written(files)
        words = KINDS[kind].commands[0]
        done = subprocess.run([sys.executable, "-m", "distft.cli", *words], env={**os.environ, **home}, timeout=120,
                              capture_output=True, text=True, errors="replace", check=False)  # fmt: skip
        if done.returncode not in ends(words) or "Traceback" in done.stderr:
            wrong.append(f"{number} ({kind}): {done.returncode} {done.stderr[-500:]}")
        assert sorted(path.name for path in here.parent.iterdir()) == ["here"], number
    assert not wrong, "\n".join(wrong)
