"""Rollouts by vLLM, from the command to the exported model: engines of their own, and what they are compared with."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from distft.config.load import recipe_file
from distft.planning.generation import installed_vllm
from tests.e2e.conftest import SMALL, Start, computed, events, exit_record, lines, weights

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(900),
    pytest.mark.skipif(
        not installed_vllm() and "CI" not in os.environ, reason="vLLM is not installed; tests/run installs it"
    ),
]
SAME = 1e-3  # of a token's log-prob in float32: see invariants.SAME_WEIGHTS


@pytest.fixture
def grpo(tmp_path: Path) -> str:
    """Groups of answers that a rule scores, to the embedded prompts: no other model than policy and reference."""
    recipe = yaml.safe_load(recipe_file("ppo-tiny").read_text())
    init = recipe["models"]["policy"]["init"] | {"hidden_size": 64, "num_layers": 2, "num_heads": 2, "vocab_size": 400}
    recipe |= {
        "algorithm": {"kind": "grpo"},
        "models": {
            "policy": recipe["models"]["policy"] | {"init": init},
            "reward": {"functions": ["tests.harness.rules:letters_e"]},
        },
        "placement": {"policy": {"ranks": 2}, "reference": {"ranks": 1}},
        "rollout": {"engine": "auto", "max_new_tokens": 12, "samples_per_prompt": 4, "temperature": 0.9},
    }
    path = tmp_path / "grpo.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return str(path)


def root_on_path() -> dict[str, str]:
    """Where the rule of the recipe is found."""
    return {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])}


def trained(start: Start, recipe: str, *overrides: str, folder: str) -> Path:
    verb = start("train", recipe, *SMALL, "train.steps=2", *overrides, folder=folder, **root_on_path())
    assert verb.end() == 0, verb.output
    verb.assert_nothing_left()
    return verb.folder


def iterations(folder: Path) -> list[dict[str, Any]]:
    """What was computed in each."""
    return [line for line in computed(folder) if line["split"] == "train"]


def assert_proven(folder: Path) -> None:
    """The samples of every iteration are the trainer's own."""
    found = iterations(folder)
    assert [line["step"] for line in found] == [1, 2]
    for line in found:
        assert 0 < line["rollout/trainer_logprob_difference_q999"] < SAME, "exactly 0: not another engine's"
        assert line["rollout/staleness"] == 0


def test_a_run_takes_vllm_by_itself_and_trains_on_its_samples(start: Start, grpo: str) -> None:
    folder = trained(start, grpo, folder="run")
    plan = json.loads((folder / "plan.json").read_text())
    assert (plan["generation"]["engine"], plan["generation"]["why"]) == ("vllm", f"{installed_vllm()} is installed")
    assert len(events(folder, "engines_ready")) == 1
    assert [group["role"] for group in events(folder, "group_ready")].count("rollout") == 1
    assert_proven(folder)
    assert "stage: generate iteration 2" in (folder / "logs" / "rollout-0.log").read_text()
    assert (folder / "final" / "model.safetensors").is_file()


@pytest.mark.slow
def test_two_engines_draw_what_hf_draws(start: Start, grpo: str) -> None:
    """The same tokens, so the same training: bit for bit between numbers of engines, near to it beside ``hf``."""
    one = trained(start, grpo, folder="one")
    two = trained(start, grpo, "placement.rollout.ranks=2", folder="two")
    by_hf = trained(start, grpo, "rollout.engine=hf", folder="hf")
    texts = [[sample["completion"] for sample in lines(folder, "samples")] for folder in (one, two, by_hf)]
    assert texts[0] == texts[1] == texts[2]
    assert len(set(texts[0])) > len(texts[0]) // 2
    for ours, theirs in zip(iterations(one), iterations(by_hf), strict=True):
        assert ours["objective/scores"] == theirs["objective/scores"]
        assert ours["loss"] == pytest.approx(theirs["loss"], abs=1e-6)
    assert weights(one) == weights(by_hf)


@pytest.mark.slow
def test_a_killed_engine_is_named_and_the_run_goes_on_later(start: Start, grpo: str) -> None:
    words = ("train", grpo, *SMALL, "train.steps=4", "checkpoint.every=1", "placement.rollout.ranks=2")
    verb = start(*words, folder="run", **root_on_path())
    verb.wait_for_stage("rollout-1", "generate iteration 3")
    since = time.monotonic()
    os.kill(verb.pid("rollout", 1), signal.SIGKILL)
    assert verb.end(60) == 1, verb.output
    assert time.monotonic() - since < 30
    assert "distft: rollout rank 1 on" in verb.output
    assert "its process died" in verb.output
    verb.assert_nothing_left()
    assert exit_record(verb.folder)["role"] == "rollout"
    again = start(*words, folder="run", **root_on_path())
    assert again.end() == 0, again.output
    undisturbed = start(*words, folder="undisturbed", **root_on_path())
    assert undisturbed.end() == 0, undisturbed.output
    assert weights(again.folder) == weights(undisturbed.folder)
