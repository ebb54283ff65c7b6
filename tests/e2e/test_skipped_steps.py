"""A step that comes out as no number is left out on all ranks, counted and told; a few batches in a row end the run."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.numpy import load_file

from distft.config.load import recipe_file
from distft.tracking.flight import read_flight
from tests.e2e.conftest import SMALL, TINY, Start, checkpoints, computed, events, exit_record, lines
from tests.e2e.test_resume import assert_same, disturb

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]
WRITTEN = Path(__file__).parents[1] / "harness" / "unsteady_method.py"
BATCH = 8


def words(folder: Path, spoilt: Collection[int], *more: str) -> tuple[str, ...]:
    """SFT by a loss from outside on two ranks; the fourth row of each step of ``spoilt`` has too short an answer."""
    shutil.copy(WRITTEN, folder / "unsteady.py")
    rows = [
        {"prompt": f"say {number}", "completion": "a" if number % BATCH == 3 and number // BATCH + 1 in spoilt else
         f"the number {number} is said here"}
        for number in range(6 * BATCH)
    ]  # fmt: skip
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe: dict[str, Any] = yaml.safe_load(recipe_file("sft-tiny").read_text())
    recipe |= {"algorithm": {"kind": "./unsteady.py:Unsteady"}, "placement": {"policy": {"ranks": 2}}}
    recipe["data"] |= {"train": [{"path": f"{folder}/rows.jsonl"}], "shuffle": False}
    (folder / "unsteady.yaml").write_text(yaml.safe_dump(recipe))
    return (
        "train", str(folder / "unsteady.yaml"), *TINY, *SMALL, "data.train.0.limit=null", "evaluation.metrics=[]",
        "tracking.samples_every=0", "optimizer.warmup_steps=0", *more,
    )  # fmt: skip


def trained(folder: Path) -> list[dict[str, Any]]:
    return [line for line in lines(folder, "metrics") if line["split"] == "train"]


def test_a_row_whose_loss_is_no_number_costs_its_step_and_no_more(start: Start, tmp_path: Path) -> None:
    """It is on one of the two ranks, which cut the model; weights are after the step what they were before it."""
    verb = start(*words(tmp_path, [2], "train.steps=4"))
    assert verb.end() == 0, verb.output
    verb.assert_nothing_left()
    steps = trained(verb.folder)
    assert [line["loss"] is None for line in steps] == [False, True, False, False]
    assert [line.get("skipped_steps") for line in steps] == [None, 1, 1, 1]
    assert [line["optimizer_steps"] for line in steps] == [1, 2, 3, 4], "the schedule goes by plan"
    assert steps[1]["nonfinite"] == {"loss": "inf", "grad_norm": "nan"}
    for rank in (0, 1):
        norms = [read_flight(verb.folder)[step]["policy"][rank].updates[0].weights for step in (1, 2, 3)]
        assert norms[0] == norms[1] != norms[2]
    (told,) = events(verb.folder, "steps_skipped")
    assert {key: told[key] for key in ("step", "role", "cause", "steps", "of", "in_a_row")} == {
        "step": 2, "role": "policy", "cause": "the loss is inf", "steps": 1, "of": 1, "in_a_row": 1
    }  # fmt: skip
    (alarm,) = [one for one in events(verb.folder, "alarm") if one["name"] == "steps left out"]
    assert f"alarm at step 2: steps left out: {alarm['said']}; {alarm['do']}" in verb.output
    assert "steps left out at step 2" in (verb.folder / "report.html").read_text()
    kept = verb.folder / "failed_steps" / "step_00000002"
    assert len(load_file(kept / "batch.safetensors")["sample"]) == BATCH
    assert json.loads((kept / "rows.json").read_text())["rows"][3].endswith(":12"), "the line of the row"
    assert sorted(path.name for path in kept.parent.iterdir()) == [kept.name], "others passed"


@pytest.mark.slow
def test_a_run_that_is_killed_leaves_out_and_ends_as_the_undisturbed_one(start: Start, tmp_path: Path) -> None:
    """Killed in step 4, whose checkpoint before, of step 2, knows that one was left out already; three in a row are
    one too many. Replayed, the last of them fails again."""
    of_run = words(tmp_path, [2, 3, 4], "recovery.max_skipped_steps=2")
    undisturbed = start(*of_run, folder="undisturbed")
    assert undisturbed.end() == 1, undisturbed.output
    assert "the loss is inf: the step was not taken, as in the 2 batches before it (recovery.max_skipped_steps)" in (
        undisturbed.output
    )
    assert f"distft replay {undisturbed.folder} 4 runs it again" in undisturbed.output
    assert exit_record(undisturbed.folder)["class"] == "diverged"
    assert not events(undisturbed.folder, "restart")
    assert checkpoints(undisturbed.folder) == [2]
    kept = sorted(path.name for path in (undisturbed.folder / "failed_steps").iterdir())
    assert kept == [f"step_{step:08d}" for step in (2, 3, 4, 5)], "the last was read ahead when the fourth failed"
    verb = start(*of_run, folder="disturbed")
    verb.wait_for_stage("policy-1", "update UnsteadyLoss from step 3\n")
    os.kill(verb.process.pid, signal.SIGKILL)
    assert verb.end() == -signal.SIGKILL
    verb.assert_nothing_left()
    verb = start(*of_run, folder="disturbed")
    assert verb.end() == 1, verb.output
    assert [event["step"] for event in events(verb.folder, "resume")] == [2]
    assert computed(verb.folder) == computed(undisturbed.folder)
    replay = start("replay", str(undisturbed.folder), "4")
    assert replay.end() == 1, replay.output
    assert "step 4 fails: the loss is inf" in replay.output


@pytest.mark.slow
def test_with_room_for_them_it_goes_on_bit_for_bit_and_a_replay_skips_too(start: Start, tmp_path: Path) -> None:
    of_run = words(tmp_path, [2, 3, 4])
    undisturbed = start(*of_run, folder="undisturbed")
    assert undisturbed.end() == 0, undisturbed.output
    assert_same(disturb(start, of_run, "UnsteadyLoss"), undisturbed.folder)
    assert trained(undisturbed.folder)[-1]["skipped_steps"] == 3
    replay = start("replay", str(undisturbed.folder), "3", "--json")
    assert replay.end() == 0, replay.output
    assert json.loads(replay.output.splitlines()[-1])["equal"] is True


@pytest.mark.slow
def test_without_room_the_first_one_ends_it(start: Start, tmp_path: Path) -> None:
    verb = start(*words(tmp_path, [2], "recovery.max_skipped_steps=0"))
    assert verb.end() == 1, verb.output
    assert "the loss is inf: the step was not taken\n" in verb.output
    assert len(trained(verb.folder)) == 1


HUGE = """
def score(prompts, completions, **columns):
    score.calls = getattr(score, "calls", 0) + (len(completions) == 8)  # of training: others have 4
    huge = score.calls == 2
    return [1e25 if huge and not at else completion.count("e") / 4 for at, completion in enumerate(completions)]
"""


@pytest.mark.slow
def test_a_reward_too_large_for_the_value_loss_costs_the_value_models_steps_alone(start: Start, tmp_path: Path) -> None:
    """PPO, where 1e25 squared is infinite in float32, while whitened advantages are numbers: both of the steps of the
    second iteration, an epoch each, see it, and one batch may be left out. The policy goes on."""
    (tmp_path / "huge_of_test.py").write_text(HUGE)
    verb = start(
        "train", "ppo-tiny", *TINY, *SMALL, "data.eval.0.limit=4", "data.test.0.limit=4",
        "models.reward={functions: [huge_of_test:score]}", "algorithm.minibatches=1", "rollout.max_new_tokens=8",
        "placement={policy: {ranks: 2}, reference: {ranks: 2}, value: {ranks: 2}}", "train.steps=4",
        "tracking.samples_every=0", "recovery.max_skipped_steps=1",
        PYTHONPATH=f"{tmp_path}:{Path(__file__).parents[2]}",
    )  # fmt: skip
    assert verb.end() == 0, verb.output
    steps = trained(verb.folder)
    assert [line.get("value/skipped_steps") for line in steps] == [None, 2, 2, 2]
    assert all("skipped_steps" not in line for line in steps)
    (told,) = events(verb.folder, "steps_skipped")
    assert (told["step"], told["role"], told["steps"], told["of"], told["in_a_row"]) == (2, "value", 2, 2, 1)
    flight = read_flight(verb.folder)
    values = [flight[step]["value"][0].updates[-1].weights for step in (1, 2, 3)]
    assert values[0] == values[1] != values[2]
    policies = [flight[step]["policy"][0].updates[-1].weights for step in (1, 2, 3)]
    assert policies[0] != policies[1] != policies[2]
