"""A step that fails twice alike ends the run with its batch kept, and any step is run again beside what was logged."""

from __future__ import annotations

import json
import os
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file

from tests.e2e.conftest import (
    SFT,
    Start,
    Verb,
    checkpoints,
    computed,
    dpo,
    events,
    exit_record,
    grouped,
    lines,
    ppo,
    root_on_path,
)
from tests.harness import rules

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

DEADLY = """
import os
import signal


def score(prompts, completions, **columns):
    if any("poison" in prompt for prompt in prompts):
        {fate}
    return [float(len(set(completion)) % 3) for completion in completions]
"""
KILLS, RAISES, PASSES = "os.kill(os.getpid(), signal.SIGKILL)", "raise ValueError('no such sum')", "pass"
POISONED = 4  # the step
GRPO = (
    "train", "grpo-tiny", "algorithm.kl_coef=0", "algorithm.minibatches=2", "placement={policy: {ranks: 1}}",
    "models.reward.functions=[deadly:score]", "data.train.0.path=rows.jsonl", "data.shuffle=false",
    "data.eval.0.limit=4", "data.test.0.limit=4", "evaluation.every=0", "tracking.samples_every=0",
    "train.steps=6", "train.global_batch_size=4", "rollout.samples_per_prompt=4", "checkpoint.every=2",
    "recovery.max_restarts=3",
)  # fmt: skip


def poisoned(folder: Path, fate: str) -> None:
    """Rows of which the 14th, in step 4, is the end of who scores it."""
    rows = [{"prompt": "poison=" if number == 13 else f"{number}+1=", "completion": str(number + 1)}
            for number in range(24)]  # fmt: skip
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    mend(folder, fate)


def mend(folder: Path, fate: str = PASSES) -> None:
    """What the rule does with the poison from now on."""
    (folder / "deadly.py").write_text(DEADLY.format(fate=fate))


def contents(folder: Path) -> dict[str, tuple[int, int]]:
    """Size and time of change of everything in a folder, itself included."""
    return {str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in [folder, *folder.rglob("*")]}


def told_command(verb: Verb) -> list[str]:
    """The arguments of the replay that the message gives."""
    (line,) = [line for line in verb.output.splitlines() if "distft replay" in line]
    return shlex.split(line.split("distft ", 1)[1].removesuffix(" runs it again"))


def replayed(start: Start, run: Path, step: int, *more: str, status: int = 0) -> Any:
    """What a replay answers as JSON; the run's own folder is as it was."""
    before = contents(run)
    verb = start("replay", str(run), str(step), "--json", *more, **root_on_path())
    assert verb.end() == status, verb.output
    verb.assert_nothing_left()
    assert contents(run) == before, "the run is only read"
    return json.loads(verb.output.splitlines()[-1])


def test_a_step_that_kills_who_scores_it_twice_is_kept_and_passes_once_it_is_mended(
    start: Start, tmp_path: Path
) -> None:
    """The data worker dies with the batch, which it wrote before; no restart is wasted on a third time."""
    poisoned(tmp_path, KILLS)
    verb = start(*GRPO)
    assert verb.end() == 1, verb.output
    verb.assert_nothing_left()
    assert [event["from_step"] for event in events(verb.folder, "restart")] == [2], "two would have been left"
    assert f"step {POISONED} has failed twice in the same way: another restart would not help" in verb.output
    assert "Traceback" not in verb.output
    assert (exit_record(verb.folder)["class"], exit_record(verb.folder)["role"]) == ("death", "data")
    assert told_command(verb) == ["replay", str(verb.folder), str(POISONED)]
    kept = verb.folder / "failed_steps" / f"step_{POISONED:08d}"
    assert f"its batch is kept in {kept}; distft replay" in verb.output
    rows = json.loads((kept / "rows.json").read_text())
    assert (rows["step"], rows["start"], rows["count"], rows["seed"]) == (POISONED, 12, 4, 1)
    assert [place.rpartition(":")[2] for place in rows["rows"]] == ["13", "14", "15", "16"], "lines of rows.jsonl"
    batch = load_file(kept / "batch.safetensors")
    assert len(batch["sample"]) == len(batch["response_ids/lengths"]) == 16, "prompts with their responses"
    mend(tmp_path)
    before = contents(verb.folder)
    replay = start(*told_command(verb))
    assert replay.end() == 0, replay.output
    replay.assert_nothing_left()
    assert contents(verb.folder) == before, "the run is only read"
    assert f"step {POISONED} of {verb.folder}, from the checkpoint of step 2" in replay.output
    assert "its samples are those that the run kept" in replay.output
    assert "the run has logged nothing of this step; here it did not fail" in replay.output
    again = computed(tmp_path / f"run-replay-{POISONED}")
    assert [line["step"] for line in again] == [3, 4]
    assert again[0] == next(line for line in computed(verb.folder) if (line["step"], line["split"]) == (3, "train"))


@pytest.mark.slow
def test_what_is_not_mended_fails_again_and_is_named(start: Start, tmp_path: Path) -> None:
    poisoned(tmp_path, KILLS)
    verb = start(*GRPO)
    assert verb.end() == 1, verb.output
    before = contents(verb.folder)
    replay = start(*told_command(verb))
    assert replay.end() == 1, replay.output
    replay.assert_nothing_left()
    assert contents(verb.folder) == before
    folder = tmp_path / f"run-replay-{POISONED}"
    assert f"distft: data rank 0 on {os.uname().nodename}: step {POISONED} fails: its process died" in replay.output
    assert f"log: {folder / 'logs' / 'data-0.log'}" in replay.output
    assert "Traceback" not in replay.output
    ended = exit_record(folder)
    assert (ended["class"], ended["role"], ended["exit_status"]) == ("death", "data", 1)
    kept = [load_file(run / "failed_steps" / f"step_{POISONED:08d}" / "batch.safetensors")
            for run in (verb.folder, folder)]  # fmt: skip
    assert kept[0].keys() == kept[1].keys()
    assert all((kept[0][name] == kept[1][name]).all() for name in kept[0]), "sampled log-probs too"


@pytest.mark.slow
def test_a_rule_that_refuses_an_answer_ends_the_run_at_once_with_the_batch_kept(start: Start, tmp_path: Path) -> None:
    """It would refuse it again; it is kept when it has failed, as nobody has died, and the copy in memory becomes a
    checkpoint. Mended, the same command goes on, and what was kept of a step that does not fail any more is gone."""
    poisoned(tmp_path, RAISES)
    words = (*GRPO, "checkpoint.every=100", "checkpoint.memory_every=1")
    verb = start(*words)
    assert verb.end() == 2, verb.output
    assert not events(verb.folder, "restart")
    assert "no such sum" in verb.output
    assert checkpoints(verb.folder) == [POISONED - 1]
    assert told_command(verb) == ["replay", str(verb.folder), str(POISONED)]
    kept = verb.folder / "failed_steps" / f"step_{POISONED:08d}"
    assert len(load_file(kept / "batch.safetensors")["sample"]) == 16
    replay = start(*told_command(verb))
    assert replay.end() == 2, replay.output
    assert "no such sum" in replay.output
    mend(tmp_path)
    verb = start(*words)
    assert verb.end() == 0, verb.output
    assert [event["step"] for event in events(verb.folder, "resume")] == [POISONED - 1]
    assert not kept.exists()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sft", "dpo", "ppo", "grpo"])
def test_a_step_is_bit_for_bit_what_was_logged(kind: str, sft: Path, start: Start, tmp_path: Path) -> None:
    """From the beginning and from a checkpoint; on another layout to rounding. The run is evaluated meanwhile, which
    a replay is not."""
    shutil.copy(rules.__file__, tmp_path)
    words = {"sft": SFT, "dpo": dpo(sft), "ppo": ppo(sft), "grpo": grouped(sft, kind="grpo")}[kind]
    verb = start(*words, "train.steps=5", "evaluation.every=1", "checkpoint.keep=9")
    assert verb.end() == 0, verb.output
    assert checkpoints(verb.folder) == [2, 4, 5]
    for step, begun in ((2, 0), (4, 2)):
        found = replayed(start, verb.folder, step)
        assert (found["begun"], found["same_layout"], found["tolerance"], found["equal"]) == (begun, True, 0, True)
        (logged,) = [line for line in lines(verb.folder, "metrics")
                     if (line["step"], line["split"]) == (step, "train")]  # fmt: skip
        assert {pair["name"]: pair["now"] for pair in found["pairs"]}["loss"] == logged["loss"]
    found = replayed(start, verb.folder, 5, "placement.policy.ranks=1", "--output", str(tmp_path / "elsewhere"))
    assert (found["begun"], found["same_layout"], found["tolerance"], found["equal"]) == (4, False, 1e-4, True), found
    assert [line["step"] for line in computed(tmp_path / "elsewhere")] == [5]
    edit_loss(verb.folder / "metrics.jsonl", step=4)
    found = replayed(start, verb.folder, 4, status=1)
    assert [pair["name"] for pair in found["pairs"] if not pair["equal"]] == ["loss"]


def edit_loss(ledger: Path, *, step: int) -> None:
    """Another loss by a millionth."""
    found = [json.loads(line) for line in ledger.read_text().splitlines()]
    for line in found:
        if (line["step"], line["split"]) == (step, "train"):
            line["loss"] *= 1 + 1e-6
    ledger.write_text("".join(json.dumps(line) + "\n" for line in found))
