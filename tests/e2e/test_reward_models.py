"""Several reward models in one run: each a group of its own, weighted, logged, and named where it fails."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import pytest

from tests.e2e.conftest import Start, computed, exit_record, grouped, ppo
from tests.e2e.test_resume import assert_same, disturb, run
from tests.harness import rules

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(900)]
INIT = "{hidden_size: 32, num_layers: 1, num_heads: 2, vocab_size: 400, max_positions: 256}"
MODEL = f"init: {INIT}, dtype: float32, engine: {{zero_stage: 3, persistence_threshold: 0}}"
HARMLESS = f"models.rewards.harmless={{{MODEL}, weight: -0.5}}"


def test_ppo_with_two_is_killed_and_goes_on(sft: Path, start: Start) -> None:
    places = ("placement.policy.ranks=2", "placement.rewards.harmless.ranks=2")
    words = ppo(sft, HARMLESS, *places, "models.reward.weight=2.0", "evaluation.every=3")
    undisturbed = run(start, *words, folder="undisturbed")
    train = [line for line in computed(undisturbed) if line["split"] == "train"]
    for line in train:
        both = 2.0 * line["rewards/reward"] - 0.5 * line["rewards/harmless"]
        assert line["objective/scores"] == pytest.approx(both, rel=1e-5, abs=1e-6)
    assert len({line["rewards/harmless"] for line in train}) == len(train)
    held_out = [line for line in computed(undisturbed) if line["split"] == "eval"]
    assert all({"rewards/reward", "rewards/harmless", "objective/score"} <= line.keys() for line in held_out)
    assert_same(disturb(start, words, "PpoPolicy", updates=4), undisturbed)


def test_a_group_method_with_a_function_and_the_death_of_one(sft: Path, tmp_path: Path, start: Start) -> None:
    shutil.copy(rules.__file__, tmp_path)
    words = (*grouped(sft, kind="grpo"), f"models.reward={{functions: [rules:one_in_four], {MODEL}}}", HARMLESS)
    folder = run(start, *words, folder="run")
    for line in (one for one in computed(folder) if one["split"] == "train"):
        parts = line["rewards/reward"] - 0.5 * line["rewards/harmless"] + line["rewards/one_in_four"]
        assert line["reward"] == pytest.approx(parts, rel=1e-5, abs=1e-6)
    verb = start(*words, "train.steps=50", folder="killed")
    verb.wait_for_stage("rewards.harmless-1", "forward score/harmless")
    os.kill(verb.pid("rewards.harmless", 1), signal.SIGKILL)
    assert verb.end() == 1, verb.output
    assert exit_record(verb.folder)["role"] == "rewards.harmless"
    verb.assert_nothing_left()
