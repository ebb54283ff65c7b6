"""Runs whose longest responses are cut: the same on other ranks and engines, killed or not."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from distft.planning.generation import installed_vllm
from tests.e2e.conftest import Start, computed, lines
from tests.e2e.test_resume import assert_same, disturb, run
from tests.harness import rules

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]

LETTERS = [chr(ord("A") + number) for number in (*range(26), *range(32, 58))]
SMALL = ("train.steps=4", "train.global_batch_size=6", "rollout.samples_per_prompt=4", "checkpoint.every=2",
         "evaluation.every=0", "evaluation.max_samples=6", "tracking.samples_every=1", "tracking.samples_count=24",
         "recovery.max_restarts=0")  # fmt: skip


def words(folder: Path, *more: str, mask: bool = True, **algorithm: Any) -> tuple[str, ...]:
    """A policy from nothing, any letter of which ends a response: most are short, a few are long."""
    shutil.copy(rules.__file__, folder)
    tails = json.dumps({"every": 4, "finished": 0.7, "mask": mask})
    return (
        "train", "grpo-tiny", *(["algorithm=" + json.dumps(algorithm)] if algorithm else []), *SMALL,
        f"models.policy.stop_tokens={json.dumps(['<|end|>', *LETTERS])}", "models.policy.init.max_positions=64",
        "models.policy.init.num_heads=2", "models.reward={functions: ['rules:mostly_letters']}", "data.max_length=34",
        "rollout.max_new_tokens=24", f"rollout.cut_tails={tails}", *more,
    )  # fmt: skip


def trained(folder: Path) -> list[dict[str, Any]]:
    return [line for line in computed(folder) if line["split"] == "train"]


def said(folder: Path, step: int) -> list[Any]:
    return [one["completion"] for one in lines(folder, "samples") if one["step"] == step and one["split"] == "train"]


def test_the_longest_are_cut_and_not_learned_from(start: Start, tmp_path: Path) -> None:
    folder = run(start, *words(tmp_path, "train.steps=2"), folder="masked")
    for line in trained(folder):
        assert 0 < line["rollout/cut_fraction"] <= 0.3
        assert line["completions/clipped_ratio"] == pytest.approx(line["rollout/cut_fraction"])
        assert line["completions/min_length"] == 0, "a masked one"
        assert line["completions/mean_length"] < line["rollout/response_length"]
        assert line["completions/max_length"] <= 20
        assert line["grad_norm"] > 0
        assert line["rollout/trainer_logprob_difference_max"] < 1e-5
    assert len(said(folder, 1)) == 24


@pytest.mark.slow
def test_other_ranks_and_micro_batches_cut_the_same(start: Start, tmp_path: Path) -> None:
    one = run(start, *words(tmp_path), folder="one")
    other = run(start, *words(tmp_path), "placement.policy.ranks=2", "rollout.max_batch_per_rank=5",
                "train.max_tokens_per_rank=128", folder="other")  # fmt: skip
    assert said(one, 1) == said(other, 1)
    first, again = trained(one)[0], trained(other)[0]
    for name in ("loss", "reward", "completions/mean_length", "rollout/cut_fraction", "kl", "grad_norm"):
        assert again[name] == pytest.approx(first[name], rel=1e-4, abs=1e-6), name


@pytest.mark.slow
def test_what_is_cut_changes_what_is_learned_where_it_is_not_masked(start: Start, tmp_path: Path) -> None:
    masked = trained(run(start, *words(tmp_path), folder="masked"))[0]
    learned = trained(run(start, *words(tmp_path, mask=False), folder="learned"))[0]
    assert learned["reward"] == masked["reward"], "both count the scores of what is cut"
    assert learned["rollout/cut_fraction"] == masked["rollout/cut_fraction"]
    assert learned["completions/mean_length"] == learned["rollout/response_length"]
    assert learned["grad_norm"] != masked["grad_norm"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("algorithm", "loss"),
    [({"kind": "grpo"}, "ClippedPolicy"), ({"kind": "ppo"}, "PpoPolicy"),
     ({"kind": "dapo", "max_refills": 1}, "ClippedPolicy"), ({"kind": "reinforce_pp"}, "ClippedPolicy"),
     ({"kind": "rloo"}, "RlooPolicy"), ({"kind": "raft"}, "Sft")],
    ids=lambda one: one["kind"] if isinstance(one, dict) else "",
)  # fmt: skip
def test_killed_and_resumed_it_is_the_same_run(
    start: Start, tmp_path: Path, algorithm: dict[str, Any], loss: str
) -> None:
    keys = {"epochs": 1, "minibatches": 1, **algorithm}
    asked = words(tmp_path, "placement={policy: {ranks: 2}}", **keys)
    undisturbed = run(start, *asked, folder="undisturbed")
    assert any(line["rollout/cut_fraction"] for line in trained(undisturbed))
    assert_same(disturb(start, asked, loss), undisturbed)


@pytest.mark.slow
@pytest.mark.skipif(not installed_vllm() and "CI" not in os.environ, reason="vLLM is not installed")
def test_engines_cut_what_the_policys_own_ranks_would(start: Start, tmp_path: Path) -> None:
    asked = words(tmp_path, "train.steps=1")
    own = run(start, *asked, folder="own")
    engines = run(start, *asked, "rollout.engine=vllm", "placement.rollout.ranks=2", folder="engines")
    assert said(own, 1) == said(engines, 1)
    assert trained(own)[0]["rollout/cut_fraction"] == trained(engines)[0]["rollout/cut_fraction"] > 0
