"""A run whose driver and ranks are killed at system calls that change its files, twenty times, goes on each time from
the newest checkpoint that it had committed, and ends bit for bit as an undisturbed run does. So does one that writes
its checkpoints while it trains, cut ten times: its ranks in the very threads that write."""

from __future__ import annotations

import os
import random
import re
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import SFT, Start, Verb, checkpoints, computed, events, weights
from tests.harness.cuts import Cut, calls, may_trace, traced

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(3600)]
pytestmark.append(pytest.mark.skipif(bool(may_trace()), reason=may_trace()))

SEED = 14
LONG = ("train.steps=300", "checkpoint.every=1", "checkpoint.keep=2", "recovery.max_restarts=3")
# What each does in a save of this run, and about how often; a few saves on, at most.
DRIVER = {"mkdir": 6, "rename": 8, "fsync": 30, "openat": 30, "write": 30, "unlinkat": 16, "rmdir": 6}
RANK = {"openat": 12, "write": 12, "fsync": 12}


def chosen(count: int) -> list[tuple[str, Cut]]:
    """Who is killed, and where."""
    dice = random.Random(SEED)
    found = []
    for number in range(count):
        who = "driver" if number % 2 else f"policy-{dice.randrange(2)}"
        often = DRIVER if who == "driver" else RANK
        call = dice.choice(sorted(often))
        found.append((who, Cut(call, dice.randint(1, often[call]))))
    return found


def wait_for(verb: Verb, event: str, attempt: int) -> Any:
    """The newest event of this name, once it is one of this attempt."""
    done = verb.wait_for(
        lambda: [one for one in events(verb.folder, event) if one["attempt"] == attempt], f"{event} of {attempt}"
    )
    return done[-1]


def cut_down(verb: Verb, who: str, cut: Cut, log: Path) -> str:
    """Kills it there, and answers which file it was about."""
    pid = verb.process.pid if who == "driver" else verb.pid("policy", int(who[-1]))
    with traced(pid, log, cut, threads=who != "driver"):
        if who == "driver":
            verb.end()
        else:
            verb.wait_for(lambda: not Path(f"/proc/{pid}").exists(), f"the death of {who}")
    hit = [seen for seen in calls(log) if seen.cut == cut and not seen.done]  # other threads' calls may stand behind it
    assert hit, cut
    last = hit[-1]
    return os.path.relpath(last.paths[-1], verb.folder) if last.paths else last.text


@pytest.mark.parametrize(("asynchronous", "cuts"), [(False, 20), (True, 10)])
def test_cuts_in_one_run(asynchronous: bool, cuts: int, start: Start) -> None:
    whole = start(*SFT, *LONG, folder="whole")
    assert whole.end(900) == 0, whole.output
    words = (*SFT, *LONG, f"checkpoint.asynchronous={str(asynchronous).lower()}")
    verb = start(*words, folder="run")
    hit = []
    for number, (who, cut) in enumerate(chosen(cuts)):
        wait_for(verb, "checkpoint", number + 1)
        where = cut_down(verb, who, cut, verb.folder.parent / f"{number}.log")
        said = events(verb.folder, "checkpoint")[-1]["step"]
        if who == "driver":
            verb = start(*words, folder="run")
        resumed = wait_for(verb, "resume", number + 2)
        assert resumed["rejected"] == [], (who, cut, where)
        assert resumed["step"] >= said, (who, cut, where)
        hit.append(re.sub(r"[0-9a-f]{8,}", "*", where))
        print(f"{who} killed at {cut}, {hit[-1]}: on from step {resumed['step']} ({said} was told)")
    assert verb.end(900) == 0, verb.output
    assert weights(verb.folder) == weights(whole.folder)
    assert computed(verb.folder) == computed(whole.folder)
    assert checkpoints(verb.folder) == [299, 300]
    left = {path.name for path in (verb.folder / "checkpoints").iterdir()}
    assert left - {".trash"} == {f"step_{step:08d}" for step in (299, 300)}
    assert sum(where.startswith("checkpoints") for where in hit) >= cuts // 2, hit
