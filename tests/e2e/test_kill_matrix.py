"""Kill -9 of a rank of every role in every phase of a step, one after the other in one run: it goes on by itself each
time, after the driver's death by the same command, and ends as an undisturbed run does, bit for bit. Prints the table
with the time to recovery.
"""

from __future__ import annotations

import os
import shutil
import signal
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.e2e.conftest import Start, Verb, computed, dpo, events, exit_record, grouped, ppo, weights
from tests.harness import rules

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(7200)]

SUPERVISED = ("update", "checkpoint")
SAMPLED = ("rollout", "experience", "update", "weight sync", "checkpoint")
DRIVER = "driver"  # whose death ends the run: the same command is given again


@dataclass(frozen=True)
class Cell:
    """Which process is killed, in which phase. ``name``: a role, or ``DRIVER``."""

    name: str
    rank: int
    phase: str

    def pid(self, verb: Verb) -> int:
        return verb.process.pid if self.name == DRIVER else verb.pid(self.name, self.rank)

    def __str__(self) -> str:
        return self.name if self.name == DRIVER else f"{self.name} {self.rank}"


def cells(ranks: dict[str, int], phases: Sequence[str]) -> list[Cell]:
    """Each of these in every phase."""
    return [Cell(name, rank, phase) for name, rank in ranks.items() for phase in phases]


def kill(verb: Verb, attempt: int, cell: Cell) -> float:
    """In this phase of a step after one that this attempt has saved; when, in unix seconds."""
    log = verb.folder / "logs" / "driver.log"
    verb.wait_for(
        lambda: any(event["attempt"] == attempt for event in events(verb.folder, "checkpoint")),
        f"a checkpoint of attempt {attempt}", timeout_s=900,
    )  # fmt: skip
    since = log.stat().st_size
    pid = cell.pid(verb)

    def there() -> bool:
        with log.open("rb") as file:
            file.seek(since)
            return f"stage: {cell.phase}\n".encode() in file.read()

    verb.wait_for(there, f"phase {cell.phase!r} of attempt {attempt}")
    killed = time.time()
    os.kill(pid, signal.SIGKILL)
    return killed


def assert_survives(start: Start, words: Sequence[str], killed: Sequence[Cell]) -> None:
    """One run with a death in each attempt but the last, against one without. Prints the table."""
    words = (*words, f"train.steps={2 * len(killed) + 2}", "checkpoint.every=1", "recovery.max_restarts=3",
             "tracking.wandb.mode=disabled")  # fmt: skip
    undisturbed = start(*words, folder="undisturbed")
    assert undisturbed.end(1800) == 0, undisturbed.output
    verb, moments = start(*words), []
    for attempt, cell in enumerate(killed, start=1):
        moments.append(kill(verb, attempt, cell))
        print(f"attempt {attempt}: {cell} in {cell.phase} at {moments[-1]:.1f}", flush=True)
        if cell.name == DRIVER:
            assert verb.end() == -signal.SIGKILL, verb.output
            verb.assert_nothing_left()
            verb = start(*words)
    assert verb.end(900) == 0, verb.output
    ready = {event["attempt"]: event["time"] for event in events(verb.folder, "ready")}
    took = {cell: ready[number + 1] - moments[number - 1] for number, cell in enumerate(killed, start=1)}
    print_table(killed, took)
    failures = {event["attempt"]: (event["role"], event["rank"]) for event in events(verb.folder, "failure")}
    for attempt, cell in enumerate(killed, start=1):
        if cell.name != DRIVER:
            assert failures[attempt] == (cell.name, cell.rank), cell
    assert exit_record(verb.folder)["attempt"] == len(killed) + 1
    assert computed(verb.folder) == computed(undisturbed.folder)
    assert weights(verb.folder) == weights(undisturbed.folder)


def print_table(killed: Sequence[Cell], took: dict[Cell, float]) -> None:
    """A row a process, seconds from the death until training went on."""
    phases = list(dict.fromkeys(cell.phase for cell in killed))
    print(f"| process | {' | '.join(phases)} |\n|{'---|' * (1 + len(phases))}")
    for name in dict.fromkeys(str(cell) for cell in killed):
        row = {cell.phase: f"{took[cell]:.1f}" for cell in killed if str(cell) == name}
        print(f"| {name} | " + " | ".join(row.get(phase, "") for phase in phases) + " |")
    print(f"{len(took)} deaths: median {statistics.median(took.values()):.1f} s, longest {max(took.values()):.1f} s")


def test_ranks_of_dpo(sft: Path, start: Start) -> None:
    assert_survives(start, dpo(sft), cells({"policy": 1, "reference": 1, "data": 0}, SUPERVISED))


PPO_ON = ("placement.reference.ranks=1", "placement.reward.ranks=1")
PPO_RANKS = {"policy": 1, "value": 1, "reference": 0, "reward": 0, "data": 0}


def test_ranks_of_ppo(sft: Path, start: Start) -> None:
    assert_survives(start, ppo(sft, *PPO_ON), cells(PPO_RANKS, SAMPLED))


def test_the_driver_of_ppo(sft: Path, start: Start) -> None:
    assert_survives(start, ppo(sft, *PPO_ON), cells({DRIVER: 0}, SAMPLED))


def test_ranks_of_grpo(sft: Path, tmp_path: Path, start: Start) -> None:
    """The rank that dies here is the one that sends its weights."""
    shutil.copy(rules.__file__, tmp_path)
    words = grouped(sft, kind="grpo", kl_coef=0.04)
    assert_survives(start, words, cells({"policy": 0, "reference": 0, "data": 0}, SAMPLED))
