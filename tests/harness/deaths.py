"""A process of a run is killed or frozen in a phase of a step, again and again: the run goes on, and ends as one that
nothing happened to, bit for bit.
"""

from __future__ import annotations

import os
import re
import signal
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.e2e.conftest import Start, Verb, computed, events, exit_record, weights

SUPERVISED = ("update", "checkpoint")
SAMPLED = ("rollout", "experience", "update", "weight sync", "checkpoint")
IN_MEMORY = ("rollout", "experience", "update", "weight sync", "memory copy")
IN_PLACE = ("data", "rollout")  # whose death ends no attempt: another worker takes its place
DRIVER = "driver"  # whose death ends the run: the same command is given again
# Of the run's own Ray: nothing goes on in a Ray without one of them.
SERVERS = ("raylet", "gcs_server")


@dataclass(frozen=True)
class Cell:
    """Which process is sent a signal, in which phase. ``name``: a role, ``DRIVER`` or one of ``SERVERS``."""

    name: str
    rank: int
    phase: str
    sent: signal.Signals = signal.SIGKILL

    def pid(self, verb: Verb) -> int:
        if self.name in SERVERS:
            return verb.pid_of(self.name)
        return verb.process.pid if self.name == DRIVER else verb.pid(self.name, self.rank)

    def __str__(self) -> str:
        return self.name if self.name in {DRIVER, *SERVERS} else f"{self.name} {self.rank}"


def cells(ranks: dict[str, int], phases: Sequence[str], sent: signal.Signals = signal.SIGKILL) -> list[Cell]:
    """Each of these in every phase."""
    return [Cell(name, rank, phase, sent) for name, rank in ranks.items() for phase in phases]


def beginnings(folder: Path) -> list[dict[str, Any]]:
    """Where training began or went on: with an attempt, or with a worker in another's place."""
    return sorted([*events(folder, "ready"), *events(folder, "replaced")], key=lambda event: float(event["time"]))


def strike(verb: Verb, number: int, cell: Cell) -> float:
    """In this phase of a step after one that has been saved, or of which there is a copy in memory, since training
    began or went on for the ``number``-th time; when, in unix seconds."""
    log = verb.folder / "logs" / "driver.log"

    def kept() -> bool:
        begun = beginnings(verb.folder)
        if len(begun) < number:
            return False
        attempt, since = begun[number - 1]["attempt"], begun[number - 1]["time"]
        copies = re.findall(rf"\[attempt {attempt} driver\].*stage: memory copy$", log.read_text(), re.MULTILINE)
        return len(copies) > 1 or any(event["time"] > since for event in events(verb.folder, "checkpoint"))

    verb.wait_for(lambda: log.exists() and kept(), f"a checkpoint of stretch {number}", timeout_s=900)
    since = log.stat().st_size
    pid = cell.pid(verb)

    def there() -> bool:
        with log.open("rb") as file:
            file.seek(since)
            return f"stage: {cell.phase}\n".encode() in file.read()

    verb.wait_for(there, f"phase {cell.phase!r} of stretch {number}")
    struck = time.time()
    os.kill(pid, cell.sent)
    return struck


def assert_survives(
    start: Start, words: Sequence[str], killed: Sequence[Cell], *, in_memory: bool = False, **environment: str
) -> None:
    """One run with one death after the other, against one without; ``in_memory``: without checkpoints, each attempt
    goes on from a copy in memory. Prints the table."""
    saves = ("checkpoint.every=1000", "checkpoint.memory_every=1") if in_memory else ("checkpoint.every=1",)
    words = (*words, f"train.steps={(3 if in_memory else 2) * len(killed) + 2}", *saves, "recovery.max_restarts=3",
             "tracking.wandb.mode=disabled")  # fmt: skip
    undisturbed = start(*words, folder="undisturbed", **environment)
    assert undisturbed.end(1800) == 0, undisturbed.output
    verb, moments = start(*words, **environment), []
    for number, cell in enumerate(killed, start=1):
        moments.append(strike(verb, number, cell))
        print(f"{number}: {cell} in {cell.phase} at {moments[-1]:.1f}", flush=True)
        if cell.name == DRIVER:
            assert verb.end() == -signal.SIGKILL, verb.output
            verb.assert_nothing_left()
            verb = start(*words, **environment)
    assert verb.end(900) == 0, verb.output
    verb.assert_nothing_left()
    begun = beginnings(verb.folder)
    took = {cell: begun[number]["time"] - moments[number - 1] for number, cell in enumerate(killed, start=1)}
    print_table(killed, took)
    failures = iter(events(verb.folder, "failure"))
    for cell, event in zip(killed, begun[1:], strict=True):
        assert (event["event"] == "replaced") == (cell.name in IN_PLACE), cell
        if cell.name != DRIVER:
            assert_blamed(event if cell.name in IN_PLACE else next(failures), cell)
    assert not list(failures)
    assert exit_record(verb.folder)["attempt"] == 1 + sum(cell.name not in IN_PLACE for cell in killed)
    assert {event["from_memory"] for event in events(verb.folder, "restart")} <= {in_memory}
    assert computed(verb.folder) == computed(undisturbed.folder)
    assert weights(verb.folder) == weights(undisturbed.folder)


def assert_blamed(failure: dict[str, Any], cell: Cell) -> None:
    """It is this rank, or Ray, that is named, with what became of it; of the ranks that waited for one that froze, the
    stacks are in the logs."""
    if cell.name in SERVERS:
        assert f"Ray on {os.uname().nodename} has ended: its " in failure["cause"], cell
        return
    assert (failure["role"], failure["rank"]) == (cell.name, cell.rank), cell
    if cell.sent == signal.SIGKILL:
        assert "its process died" in failure["cause"]
    else:
        assert f"frozen: rank {cell.rank}; stacks are in the logs" in failure["cause"]
        for log in Path(failure["log"]).parent.glob("*-[0-9].log"):
            said = f"[attempt {failure['attempt']} {log.stem}] distft.groups.shell: stacks of this process"
            assert (said in log.read_text()) == (log != Path(failure["log"])), f"{cell}: {log}"


def print_table(killed: Sequence[Cell], took: dict[Cell, float]) -> None:
    """A row a process, seconds from the death until training went on."""
    phases = list(dict.fromkeys(cell.phase for cell in killed))
    print(f"| process | {' | '.join(phases)} |\n|{'---|' * (1 + len(phases))}")
    for name in dict.fromkeys(str(cell) for cell in killed):
        row = {cell.phase: f"{took[cell]:.1f}" for cell in killed if str(cell) == name}
        print(f"| {name} | " + " | ".join(row.get(phase, "") for phase in phases) + " |")
    of_driver = {True: "of the driver", False: "of others"}
    for is_driver, whose in of_driver.items():
        if found := [seconds for cell, seconds in took.items() if (cell.name == DRIVER) == is_driver]:
            print(f"{len(found)} deaths {whose}: median {statistics.median(found):.1f} s, longest {max(found):.1f} s")
