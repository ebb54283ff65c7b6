"""A rank of every role is killed, or frozen (SIGSTOP), in every phase of a step, one after the other in one run: it
goes on by itself each time, after the driver's death by the same command, and ends as an undisturbed run does, bit for
bit. Prints the table with the time to recovery.
"""

from __future__ import annotations

import os
import shutil
import signal
import time
from pathlib import Path

import psutil
import pytest

from tests.e2e.conftest import Start, computed, dpo, events, grouped, ppo, weights
from tests.harness import rules
from tests.harness.deaths import DRIVER, IN_MEMORY, SAMPLED, SERVERS, SUPERVISED, Cell, assert_survives, cells, strike

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(7200)]

# A frozen rank is known by a call that takes longer: much for tiny models, so that a slow one is not taken for it.
QUICK = ("recovery.deadline_floor_s=20", "recovery.deadline_factor=4")
AWAY_S = 30.0  # longer than those calls may take: the driver that was away so long must not blame its ranks


def test_ranks_and_the_driver_of_dpo(sft: Path, start: Start) -> None:
    assert_survives(start, dpo(sft), cells({"policy": 1, "reference": 1, "data": 0, DRIVER: 0}, SUPERVISED))


PPO_ON = ("placement.reference.ranks=1", "placement.reward.ranks=1")
GRPO_RANKS = {"policy": 0, "reference": 0, "data": 0}
PPO_RANKS = {"policy": 1, "value": 1, "reference": 0, "reward": 0, "data": 0}


def test_ranks_of_ppo(sft: Path, start: Start) -> None:
    assert_survives(start, ppo(sft, *PPO_ON), cells(PPO_RANKS, SAMPLED))


def test_ranks_of_ppo_whose_states_are_in_memory(sft: Path, start: Start) -> None:
    """There is no checkpoint before the end."""
    killed = cells({"policy": 1, "reward": 0}, IN_MEMORY)
    assert_survives(start, ppo(sft, *PPO_ON), killed, in_memory=True)


def test_the_driver_of_ppo(sft: Path, start: Start) -> None:
    assert_survives(start, ppo(sft, *PPO_ON), cells({DRIVER: 0}, SAMPLED))


def test_servers_of_the_ray_of_ppo(sft: Path, start: Start) -> None:
    """A short run would end before Ray itself said a word of it; the next attempt is in another Ray."""
    assert_survives(start, ppo(sft, *PPO_ON), cells(dict.fromkeys(SERVERS, 0), SAMPLED))


def test_a_rank_dies_after_the_server_that_forked_it(sft: Path, start: Start) -> None:
    """The server's own death ends no attempt; the next one's ranks are forked by another."""
    words = (*ppo(sft, *PPO_ON), "train.steps=5", "checkpoint.every=1", "recovery.max_restarts=3")
    undisturbed = start(*words, folder="undisturbed")
    assert undisturbed.end(900) == 0, undisturbed.output
    verb = start(*words)
    verb.wait_for_stage("policy-1", "update PpoPolicy from step 4\n")
    os.kill(psutil.Process(verb.pid("policy", 1)).ppid(), signal.SIGKILL)
    strike(verb, 1, Cell("policy", 1, "update"))
    assert verb.end(900) == 0, verb.output
    verb.assert_nothing_left()
    assert [(event["role"], event["rank"]) for event in events(verb.folder, "failure")] == [("policy", 1)]
    assert computed(verb.folder) == computed(undisturbed.folder)
    assert weights(verb.folder) == weights(undisturbed.folder)


def test_ranks_and_the_driver_of_grpo(sft: Path, tmp_path: Path, start: Start) -> None:
    """The rank that dies here is the one that sends its weights."""
    shutil.copy(rules.__file__, tmp_path)
    words = grouped(sft, kind="grpo", kl_coef=0.04)
    assert_survives(start, words, cells({**GRPO_RANKS, DRIVER: 0}, SAMPLED))


def test_frozen_ranks_of_dpo(sft: Path, start: Start) -> None:
    frozen = cells({"policy": 1, "reference": 1, "data": 0}, SUPERVISED, signal.SIGSTOP)
    assert_survives(start, dpo(sft, *QUICK), frozen)


def test_frozen_ranks_of_ppo(sft: Path, start: Start) -> None:
    assert_survives(start, ppo(sft, *PPO_ON, *QUICK), cells(PPO_RANKS, SAMPLED, signal.SIGSTOP))


def test_frozen_ranks_of_grpo(sft: Path, tmp_path: Path, start: Start) -> None:
    shutil.copy(rules.__file__, tmp_path)
    words = (*grouped(sft, kind="grpo", kl_coef=0.04), *QUICK)
    assert_survives(start, words, cells(GRPO_RANKS, SAMPLED, signal.SIGSTOP))


def test_a_driver_of_ppo_that_was_frozen_goes_on(sft: Path, start: Start) -> None:
    """Longer than any call may take, in each phase: its ranks have long answered, and none is blamed."""
    words = (*ppo(sft, *PPO_ON, *QUICK), "train.steps=8", "checkpoint.every=1")
    undisturbed = start(*words, folder="undisturbed")
    assert undisturbed.end(900) == 0, undisturbed.output
    verb = start(*words)
    for phase in SAMPLED:
        strike(verb, 1, Cell(DRIVER, 0, phase, signal.SIGSTOP))
        time.sleep(AWAY_S)
        os.kill(verb.process.pid, signal.SIGCONT)
    assert verb.end(900) == 0, verb.output
    verb.assert_nothing_left()
    assert not events(verb.folder, "failure")
    assert computed(verb.folder) == computed(undisturbed.folder)
    assert weights(verb.folder) == weights(undisturbed.folder)
