"""A run folder seen from the start of a run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from distft.common.errors import UserError
from distft.config.load import load_recipe
from distft.launch.run_folder import fingerprint, is_finished, next_attempt, require_same_run, write_recipe
from distft.tracking.exit import Ending, write_exit


def test_a_new_folder_takes_any_recipe(tmp_path: Path) -> None:
    require_same_run(load_recipe("sft-tiny"), tmp_path)
    assert not is_finished(load_recipe("sft-tiny"), tmp_path)
    assert next_attempt(tmp_path) == 1


STEP = '{"format": 1, "step": 1, "time": 0, "split": "train", "loss": 1.0}\n'
EVALUATION = '{"format": 1, "step": 0, "time": 0, "split": "eval", "loss": 1.0}\n'


def test_a_run_that_has_taken_no_step_does_not_claim_its_folder(tmp_path: Path) -> None:
    """It ended with an error, and what its message says to change must not be another recipe."""
    write_recipe(load_recipe("sft-tiny"), tmp_path)
    (tmp_path / "metrics.jsonl").write_text(EVALUATION)
    mended = load_recipe("sft-tiny", ["data.max_length=64"])
    require_same_run(mended, tmp_path)
    (tmp_path / "metrics.jsonl").write_text(EVALUATION + STEP)
    with pytest.raises(UserError, match="data.max_length: 128 there, 64 now"):
        require_same_run(mended, tmp_path)


def test_a_checkpoint_claims_the_folder_too(tmp_path: Path) -> None:
    write_recipe(load_recipe("sft-tiny"), tmp_path)
    (tmp_path / "checkpoints" / "step_00000001").mkdir(parents=True)
    with pytest.raises(UserError, match="another recipe"):
        require_same_run(load_recipe("sft-tiny", ["seed=2"]), tmp_path)


def test_another_recipe_is_refused_by_its_key(tmp_path: Path) -> None:
    write_recipe(load_recipe("sft-tiny"), tmp_path)
    (tmp_path / "metrics.jsonl").write_text(STEP)
    require_same_run(load_recipe("sft-tiny"), tmp_path)
    changed = load_recipe("sft-tiny", ["optimizer.learning_rate=0.5"])
    with pytest.raises(UserError, match=r"optimizer.learning_rate: 0.004 there, 0.5 now"):
        require_same_run(changed, tmp_path)
    assert fingerprint(changed) != fingerprint(load_recipe("sft-tiny"))


def test_keys_that_came_after_a_run_are_no_change_unless_they_are_said(tmp_path: Path) -> None:
    """A run that an older distft has begun goes on; one with a key that is gone is another recipe's."""
    write_recipe(load_recipe("sft-tiny"), tmp_path)
    (tmp_path / "metrics.jsonl").write_text(STEP)
    path = tmp_path / "recipe.yaml"
    kept = yaml.safe_load(path.read_text())
    del kept["data"]["on_leak"], kept["algorithm"]["loss_on"]
    path.write_text(yaml.safe_dump(kept))
    require_same_run(load_recipe("sft-tiny"), tmp_path)
    with pytest.raises(UserError, match=r"data\.on_leak: drop there, fail now"):
        require_same_run(load_recipe("sft-tiny", ["data.on_leak=fail"]), tmp_path)
    path.write_text(yaml.safe_dump({**kept, "gone": 1}))
    with pytest.raises(UserError, match="gone: 1 there, null now"):
        require_same_run(load_recipe("sft-tiny"), tmp_path)


@pytest.mark.parametrize("override", [
    "train.steps=7", "checkpoint.every=3", "name=other", "evaluation.every=9",
    "placement.policy.ranks=1", "models.policy.engine.zero_stage=2", "models.policy.engine={offload_optimizer: cpu}",
])  # fmt: skip
def test_how_far_on_what_and_how_watched_may_change(tmp_path: Path, override: str) -> None:
    write_recipe(load_recipe("sft-tiny"), tmp_path)
    require_same_run(load_recipe("sft-tiny", [override]), tmp_path)
    assert fingerprint(load_recipe("sft-tiny", [override])) == fingerprint(load_recipe("sft-tiny"))


def test_where_and_how_long_an_environment_is_asked_may_change_and_what_it_is_may_not(tmp_path: Path) -> None:
    server = ["rollout.environment.name=null", "rollout.environment.http.url=http://one/"]
    write_recipe(load_recipe("tools-tiny", server), tmp_path)
    (tmp_path / "metrics.jsonl").write_text(STEP)
    mended = ["rollout.environment.http.url=http://other/", "rollout.environment.step_deadline_s=60"]
    require_same_run(load_recipe("tools-tiny", [*server, *mended]), tmp_path)
    with pytest.raises(UserError, match=r"rollout\.environment\.arguments\.depth"):
        require_same_run(load_recipe("tools-tiny", [*server, "rollout.environment.arguments={depth: 2}"]), tmp_path)
    with pytest.raises(UserError, match=r"rollout\.environment\.name"):
        require_same_run(load_recipe("tools-tiny"), tmp_path)


def test_the_engine_of_a_further_reward_model_may_change_and_its_weight_may_not(tmp_path: Path) -> None:
    further = "models.rewards={harmless: {path: some/model}}"
    write_recipe(load_recipe("ppo-tiny", [further]), tmp_path)
    (tmp_path / "metrics.jsonl").write_text(STEP)
    require_same_run(load_recipe("ppo-tiny", [further, "models.rewards.harmless.engine.zero_stage=0"]), tmp_path)
    with pytest.raises(UserError, match=r"models\.rewards\.harmless\.weight"):
        require_same_run(load_recipe("ppo-tiny", [further, "models.rewards.harmless.weight=3"]), tmp_path)


def test_finished_means_its_result_is_there_and_no_step_more_is_asked(tmp_path: Path) -> None:
    recipe = load_recipe("sft-tiny")
    write_recipe(recipe, tmp_path)
    (tmp_path / "final").mkdir()
    (tmp_path / "final" / "config.json").write_text("{}")
    assert not is_finished(recipe, tmp_path)
    write_exit(tmp_path, Ending.of(None), 1)
    assert is_finished(recipe, tmp_path)
    assert not is_finished(load_recipe("sft-tiny", ["train.steps=999"]), tmp_path)
    write_exit(tmp_path, Ending.of(KeyboardInterrupt()), 2)
    assert not is_finished(recipe, tmp_path)


def test_attempts_are_counted_by_their_starts(tmp_path: Path) -> None:
    lines = [{"event": "start"}, {"event": "failure"}, {"event": "start"}]
    (tmp_path / "events.jsonl").write_text("\n".join(json.dumps(line) for line in lines) + '\n{"event": "sta')
    assert next_attempt(tmp_path) == 3


def test_the_remedy_for_a_damaged_record_can_be_pasted(tmp_path: Path) -> None:
    write_recipe(load_recipe("sft-tiny"), tmp_path)
    (tmp_path / "metrics.jsonl").write_text(STEP)
    [kept] = tmp_path.glob("recipe*.yaml")
    kept.write_text("- no\n- mapping\n")
    with pytest.raises(UserError, match="record of its recipe is damaged") as caught:
        require_same_run(load_recipe("sft-tiny"), tmp_path)
    assert caught.value.hint.endswith(f": rm {kept}")


def test_a_recipe_that_somebody_wrote_stays(tmp_path: Path) -> None:
    """A run in the folder of one's own recipe would write its record in its place."""
    (tmp_path / "recipe.yaml").write_text("# mine\nformat: 1\nname: mine\noutput_dir: .\nalgorithm: {kind: sft}\n")
    with pytest.raises(UserError, match="was written by hand") as caught:
        require_same_run(load_recipe("sft-tiny"), tmp_path)
    assert caught.value.hint == "give another: output_dir=runs/NAME"
