"""Kill -9 of each role's rank in each phase of a step, one after the other in one run: it goes on by itself each time,
and ends as an undisturbed run does, bit for bit. Prints the table with the time to recovery.
"""

from __future__ import annotations

import os
import signal
import statistics
import time
from pathlib import Path

import pytest

from tests.e2e.conftest import Start, Verb, computed, dpo, events, exit_record, weights

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(7200)]

# The ranks that are killed, and the phases that a step has.
ROLES = {"policy": 1, "reference": 1, "data": 0}
PHASES = ("update", "checkpoint")


def kill_in(verb: Verb, attempt: int, role: str, rank: int, phase: str) -> float:
    """Kills the rank in this phase of a step after one that this attempt has saved; when, in unix seconds."""
    log = verb.folder / "logs" / "driver.log"
    verb.wait_for(
        lambda: any(event["attempt"] == attempt for event in events(verb.folder, "checkpoint")),
        f"a checkpoint of attempt {attempt}", timeout_s=600,
    )  # fmt: skip
    since = log.stat().st_size
    pid = verb.pid(role, rank)

    def there() -> bool:
        with log.open("rb") as file:
            file.seek(since)
            return f"stage: {phase}\n".encode() in file.read()

    verb.wait_for(there, f"phase {phase!r} of attempt {attempt}")
    killed = time.time()
    os.kill(pid, signal.SIGKILL)
    return killed


def test_any_rank_in_any_phase_of_dpo(sft: Path, start: Start) -> None:
    cells = [(role, rank, phase) for role, rank in ROLES.items() for phase in PHASES]
    more = (f"train.steps={2 * len(cells) + 2}", "checkpoint.every=1", "recovery.max_restarts=3")
    words = dpo(sft, *more, "tracking.wandb.mode=disabled")
    undisturbed = start(*words, folder="undisturbed")
    assert undisturbed.end(1200) == 0, undisturbed.output
    verb = start(*words)
    killed = [kill_in(verb, number, *cell) for number, cell in enumerate(cells, start=1)]
    assert verb.end(600) == 0, verb.output
    failures, restarts = events(verb.folder, "failure"), events(verb.folder, "restart")
    assert [(one["attempt"], one["role"], one["rank"]) for one in failures] == [
        (number, role, rank) for number, (role, rank, _) in enumerate(cells, start=1)
    ]
    seconds = [one["time"] - moment for one, moment in zip(restarts, killed, strict=True)]
    for (role, rank, phase), took, failure, restart in zip(cells, seconds, failures, restarts, strict=True):
        print(f"| {role} {rank} | {phase} | {failure['step']} | {restart['from_step']} | {took:.1f} |")
    print(f"{len(cells)} kills, median {statistics.median(seconds):.1f} s, longest {max(seconds):.1f} s")
    assert exit_record(verb.folder)["attempt"] == len(cells) + 1
    assert computed(verb.folder) == computed(undisturbed.folder)
    assert weights(verb.folder) == weights(undisturbed.folder)
