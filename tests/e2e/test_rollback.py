"""``recovery.rollback``: a run goes back before a spike and ends as if it had never had the rows that led to it."""

from __future__ import annotations

import json
import os
import random
import re
import signal
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file

from distft.controller.rollback import read_rollbacks
from distft.tracking.run_status import run_status
from tests.e2e.conftest import SMALL, TINY, Start, Verb, checkpoints, computed, events, lines, weights
from tests.e2e.test_resume import assert_same, run
from tests.e2e.test_skipped_steps import words as unsteady

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]
BATCH = 8
STEPS = 96
BAD = (86, 87)  # batches of noise: the second confirms the first; of the step before the rows are left out too
AGAIN = (*BAD, 90, 91)  # the latter in steps 87 and 88 of a run that has gone back once
WITHOUT = (85, *BAD)
WITHOUT_ALL = (*WITHOUT, 89, 90, 91)


def words(file: Path, bad: Collection[int], *more: str, without: Collection[int] = ()) -> tuple[str, ...]:
    """SFT on two ranks over the rows of as many batches as it takes, in their order, but those ``without``; the answers
    of ``bad`` ones are noise."""
    noise, rows = random.Random(3), []
    for batch in range(1, STEPS + 10):
        for number in range(BATCH * batch, BATCH * (batch + 1)):
            said = "".join(noise.choices("qxzjkvw#@~^", k=24)) if batch in bad else f"{number % 7} is said here"
            rows += [{"prompt": f"say {number % 7}", "completion": said}] * (batch not in without)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return (
        "train", "sft-tiny", *TINY, *SMALL, f"data.train=[{{path: {file}}}]", "data.shuffle=false",
        # Of rows that both runs have.
        "models.policy.init.tokenizer.train_on=[{path: 'builtin:dialogues'}]", "placement.policy.ranks=2",
        "evaluation.metrics=[]", "tracking.samples_every=0", "optimizer.learning_rate=0.01", f"train.steps={STEPS}",
        "checkpoint.every=2", "checkpoint.keep=12", "recovery.rollback=2", *more,
    )  # fmt: skip


def trained(folder: Path) -> list[dict[str, Any]]:
    """What was computed in each step; rows that are left out count for the epoch."""
    return [{**line, "epoch": 0} for line in computed(folder) if line["split"] == "train"]


def test_it_ends_as_a_run_that_never_had_these_rows(start: Start, tmp_path: Path) -> None:
    verb = start(*words(tmp_path / "bad.jsonl", BAD), folder="bad")
    assert verb.end() == 0, verb.output
    verb.assert_nothing_left()
    clean = run(start, *words(tmp_path / "clean.jsonl", (), without=WITHOUT), folder="clean")
    assert weights(verb.folder) == weights(clean)
    assert trained(verb.folder) == trained(clean)
    (made,) = read_rollbacks(verb.folder)
    assert (made.first, made.last, made.start, made.end, made.role) == (85, 87, 84 * BATCH, 87 * BATCH, "policy")
    assert re.fullmatch(r"the loss of the policy jumped to [\d.]+; [\d.]+ is usual", made.why)
    spikes = [(one["step"], one["name"], one["role"]) for one in events(verb.folder, "spike")]
    assert spikes == [(86, "loss spike", "policy"), (86, "gradient spike", "policy")]
    (told,) = events(verb.folder, "rollback")
    assert (told["left_out"], told["units"], told["cause"], told["number"]) == ("steps 85 to 87", 24, made.why, 1)
    assert [one["step"] for one in events(verb.folder, "resume")] == [84]
    assert not events(verb.folder, "restart"), "nobody died"
    assert f"{made.why}: rollback 1 of 2: what steps 85 to 87 took is left out" in verb.output
    assert "alarm at step 86: loss spike: " in verb.output
    assert len(load_file(verb.folder / "rollbacks" / "1" / "step_00000086" / "batch.safetensors")["sample"]) == BATCH
    assert "rollback" in (verb.folder / "report.html").read_text()
    assert [(one.how, one.from_step) for one in run_status(verb.folder).attempts] == [("rollback", 0), ("done", 84)]
    assert not events(clean, "spike")


def killed(verb: Verb, stage: str) -> None:
    """With all that it has started, in that stage of the policy's second rank."""
    verb.wait_for_stage("policy-1", stage)
    os.kill(verb.process.pid, signal.SIGKILL)
    assert verb.end() == -signal.SIGKILL
    verb.assert_nothing_left()


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_killed_before_in_and_after_each_of_two_rollbacks_it_ends_as_the_undisturbed_one(
    start: Start, tmp_path: Path
) -> None:
    """In the middle: when it had decided, and checkpoints of what is left out lay there still."""
    of_run = words(tmp_path / "bad.jsonl", AGAIN)
    undisturbed = run(start, *of_run, folder="undisturbed")
    assert [(one.first, one.last) for one in read_rollbacks(undisturbed)] == [(85, 87), (86, 88)]
    verb = start(*of_run, folder="disturbed")
    killed(verb, "update Sft from step 86\n")  # the spike has begun, and is not confirmed
    assert not read_rollbacks(verb.folder)
    verb = start(*of_run, folder="disturbed")
    verb.wait_for(lambda: events(verb.folder, "rollback"), "a rollback")
    os.kill(verb.process.pid, signal.SIGKILL)
    verb.end()
    verb.assert_nothing_left()
    for gone in (verb.folder / "checkpoints").glob(".superseded-step_00000086-*"):  # it may have come so far
        gone.rename(verb.folder / "checkpoints" / "step_00000086")
    assert checkpoints(verb.folder)[-1] == 86
    verb = start(*of_run, folder="disturbed")
    killed(verb, "update Sft from step 84\n")  # the first one behind it
    verb = start(*of_run, folder="disturbed")
    verb.wait_for(lambda: len(read_rollbacks(verb.folder)) == 2, "another rollback")
    killed(verb, "update Sft from step 90\n")
    assert run(start, *of_run, folder="disturbed") == verb.folder
    assert_same(verb.folder, undisturbed)
    first, *between, last = (one["step"] for one in events(verb.folder, "resume"))
    assert (first, {*between}, last) == (86, {84}, 90)
    assert read_rollbacks(verb.folder) == read_rollbacks(undisturbed)
    clean = run(start, *words(tmp_path / "clean.jsonl", (), without=WITHOUT_ALL), folder="clean")
    assert weights(verb.folder) == weights(clean)
    replay = start("replay", str(verb.folder), "87", "--json")
    assert replay.end() == 0, replay.output
    assert json.loads(replay.output.splitlines()[-1])["equal"] is True


@pytest.mark.slow
def test_one_spike_more_than_it_may_go_back_for_ends_it_with_the_batch_kept(start: Start, tmp_path: Path) -> None:
    verb = start(*words(tmp_path / "bad.jsonl", AGAIN, "recovery.rollback=1"))
    assert verb.end() == 1, verb.output
    verb.assert_nothing_left()
    kept = verb.folder / "failed_steps" / "step_00000087"
    assert "is usual; recovery.rollback=1 allows no further rollback\n" in verb.output
    assert f"its batch is kept in {kept}; distft replay {verb.folder} 87 runs it again" in verb.output
    assert len(load_file(kept / "batch.safetensors")["sample"]) == BATCH
    assert json.loads((verb.folder / "exit.json").read_text())["class"] == "spike"
    assert "Traceback" not in verb.output


@pytest.mark.slow
def test_it_goes_back_to_a_copy_in_memory_where_that_is_the_newest_before_it(start: Start, tmp_path: Path) -> None:
    more = ("checkpoint.every=50", "checkpoint.keep=2", "checkpoint.memory_every=20", "recovery.max_restarts=3")
    verb = start(*words(tmp_path / "bad.jsonl", BAD, *more))
    assert verb.end() == 0, verb.output
    assert "the run goes on from the copy in memory of step 80" in verb.output
    assert weights(verb.folder) == weights(
        run(start, *words(tmp_path / "clean.jsonl", (), without=WITHOUT), folder="clean")
    )


@pytest.mark.slow
def test_it_goes_back_where_too_many_batches_come_out_as_no_number(start: Start, tmp_path: Path) -> None:
    """Those of steps 4 and 5, of which one may be left out; step 6 would be the first of the next epoch."""
    more = ("recovery.max_skipped_steps=1", "recovery.rollback=1", "checkpoint.keep=12", "train.steps=5")
    verb = start(*unsteady(tmp_path, [4, 5], *more))
    assert verb.end() == 0, verb.output
    (made,) = read_rollbacks(verb.folder)
    assert (made.first, made.last, made.start, made.end) == (3, 5, 2 * BATCH, 5 * BATCH)
    assert made.why == "the loss is inf: the step was not taken, as in the batch before it (recovery.max_skipped_steps)"
    assert [line.get("skipped_steps") for line in lines(verb.folder, "metrics") if line["split"] == "train"] == [
        None
    ] * 5
    assert (verb.folder / "rollbacks" / "1" / "step_00000005").is_dir()


ASTRAY = """
def score(prompts, completions, **columns):
    return [1e6 if "odd" in str(prompt) else text.count("e") / 4 for prompt, text in zip(prompts, completions)]
"""


@pytest.mark.slow
def test_ppo_passes_over_prompts_whose_reward_goes_astray_and_a_killed_one_too(start: Start, tmp_path: Path) -> None:
    """The value model's loss says so; killed in the iteration behind the rollback, and in a later one."""
    (tmp_path / "astray_of_test.py").write_text(ASTRAY)
    rows = [{"prompt": f"{'odd' if number // BATCH in (30, 31) else 'say'} {number}"} for number in range(50 * BATCH)]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    of_run = (
        "train", "ppo-tiny", *TINY, *SMALL, f"data.train=[{{path: {tmp_path}/prompts.jsonl}}]", "data.shuffle=false",
        "data.eval.0.limit=4", "data.test.0.limit=4", "models.reward={functions: [astray_of_test:score]}",
        "models.policy.init.tokenizer.train_on=[{path: 'builtin:dialogues'}]", "rollout.max_new_tokens=8",
        "placement={policy: {ranks: 2}, reference: {ranks: 2}, value: {ranks: 2}}", "train.steps=36",
        "tracking.samples_every=0", "checkpoint.keep=12", "recovery.rollback=1",
    )  # fmt: skip
    path = {"PYTHONPATH": f"{tmp_path}:{Path(__file__).parents[2]}"}
    verb = start(*of_run, folder="undisturbed", **path)
    assert verb.end() == 0, verb.output
    undisturbed = verb.folder
    (made,) = read_rollbacks(undisturbed)
    assert (made.first, made.last, made.start, made.role) == (30, 32, 29 * BATCH, "value")
    verb = start(*of_run, folder="disturbed", **path)
    verb.wait_for(lambda: events(verb.folder, "rollback"), "a rollback")
    os.kill(verb.process.pid, signal.SIGKILL)
    verb.end()
    verb.assert_nothing_left()
    verb = start(*of_run, folder="disturbed", **path)
    verb.wait_for(lambda: any(line["step"] == 33 for line in lines(verb.folder, "metrics")), "iteration 33")
    os.kill(verb.process.pid, signal.SIGKILL)
    verb.end()
    verb.assert_nothing_left()
    verb = start(*of_run, folder="disturbed", **path)
    assert verb.end() == 0, verb.output
    assert_same(verb.folder, undisturbed)
    assert read_rollbacks(verb.folder) == (made,)
