"""A policy that is answered turn by turn: the same run on other ranks and engines, by a server, killed or not; and it
learns."""

from __future__ import annotations

import json
import os
import re
import signal
from pathlib import Path
from typing import Any

import pytest
import yaml

from distft.config.find_method import traits_of
from distft.config.load import recipe_file
from distft.data.calculations import calculations
from distft.planning.generation import installed_vllm
from tests.e2e.conftest import Start, computed, events, exit_record, lines, root_on_path
from tests.e2e.test_resume import assert_same, disturb, run
from tests.harness import talker
from tests.harness.judge import Answer, judging

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]

FEW = ("train.steps=4", "train.global_batch_size=6", "rollout.samples_per_prompt=4", "checkpoint.every=2",
       "evaluation.every=0", "evaluation.max_samples=6", "tracking.samples_every=1", "tracking.samples_count=24",
       "recovery.max_restarts=0")  # fmt: skip


def talking(folder: Path, algorithm: dict[str, Any], **environment: Any) -> str:
    """A policy from nothing, any letter of which ends a turn: it speaks as often as it may."""
    recipe = yaml.safe_load(recipe_file("tools-tiny").read_text())
    letters = [chr(ord("A") + number) for number in (*range(26), *range(32, 58))]
    recipe["algorithm"] = algorithm
    if "reference" not in traits_of(algorithm["kind"]).roles:
        del recipe["placement"]["reference"]
    recipe["models"]["policy"]["stop_tokens"] = ["<|end|>", *letters]
    recipe["models"]["policy"]["init"]["max_positions"] = 128
    recipe["data"] |= {"max_length": 108}
    recipe["rollout"] |= {"max_new_tokens": 100}
    recipe["rollout"]["environment"] |= {"name": "tests.harness.talker:Talker", "max_turns": 4, **environment}
    path = folder / "talking.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return str(path)


@pytest.fixture(autouse=True)
def environments_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in root_on_path().items():
        monkeypatch.setenv(name, value)


def said(folder: Path, step: int) -> list[Any]:
    return [line["turns"] for line in lines(folder, "samples") if line["step"] == step and line["split"] == "train"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "more",
    [(), ("models.policy.engine.sequence_parallel=2", "placement.reference.ranks=2")],
    ids=["ranks", "slices"],
)
def test_other_ranks_and_micro_batches_say_and_learn_the_same(
    start: Start, tmp_path: Path, more: tuple[str, ...]
) -> None:
    recipe = talking(tmp_path, {"kind": "grpo", "minibatches": 2})
    one = run(start, "train", recipe, *FEW, folder="one")
    other = run(start, "train", recipe, *FEW, "placement.policy.ranks=2", "rollout.max_batch_per_rank=5",
                "train.max_tokens_per_rank=256", *more, folder="other")  # fmt: skip
    first = said(one, 1)
    assert first == said(other, 1)
    assert len(first) == 24
    assert max(map(len, first)) > 3, "several turns"
    assert len({len(turns) for turns in first}) > 1, "of which some go on and some do not"
    assert all([turn["by"] for turn in turns[:2]] in (["policy"], ["policy", "environment"]) for turns in first)
    alike = [{line["step"]: line for line in computed(folder) if line["split"] == "train"} for folder in (one, other)]
    line, again = (found[1] for found in alike)
    for name in ("loss", "reward", "completions/mean_length", "rollout/turns", "rollout/observation_length",
                 "rollout/ended_max_turns", "rollout/ended_cut", "objective/entropy", "kl", "grad_norm"):  # fmt: skip
        assert again[name] == pytest.approx(line[name], rel=1e-4, abs=1e-6), name
    assert line["rollout/turns"] > 1
    assert line["rollout/observation_length"] > 0
    policys = sum(line["completions/mean_length"] for line in alike[0].values()) / len(alike[0])
    assert policys == pytest.approx(sum(one["rollout/response_length"] for one in alike[0].values()) / len(alike[0]))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("algorithm", "loss"),
    [({"kind": "grpo"}, "ClippedPolicy"), ({"kind": "ppo"}, "PpoPolicy"),
     ({"kind": "dapo", "max_refills": 1}, "ClippedPolicy"), ({"kind": "online_dpo"}, "Dpo"), ({"kind": "raft"}, "Sft")],
    ids=lambda one: one["kind"] if isinstance(one, dict) else "",
)  # fmt: skip
def test_killed_and_resumed_it_is_the_same_run(
    start: Start, tmp_path: Path, algorithm: dict[str, Any], loss: str
) -> None:
    words = ("train", talking(tmp_path, algorithm), *FEW, "placement.policy.ranks=2")
    undisturbed = run(start, *words, folder="undisturbed")
    assert all(line["rollout/turns"] > 1 for line in computed(undisturbed) if line["split"] == "train")
    assert_same(disturb(start, words, loss), undisturbed)


@pytest.mark.slow
def test_where_the_data_worker_dies_between_turns_another_takes_them_again(start: Start, tmp_path: Path) -> None:
    words = ("train", talking(tmp_path, {"kind": "grpo"}), *FEW, "placement.policy.ranks=2", "recovery.max_restarts=3")
    undisturbed = run(start, *words, folder="undisturbed")
    verb = start(*words)
    log = verb.folder / "logs" / "data-0.log"
    verb.wait_for(
        lambda: log.exists() and log.read_text().count("stage: environment\n") > 6, "turns of a second rollout"
    )
    os.kill(verb.pid("data", 0), signal.SIGKILL)
    assert verb.end() == 0, verb.output
    assert [(event["role"], event["attempt"]) for event in events(verb.folder, "replaced")] == [("data", 1)]
    assert not events(verb.folder, "failure")
    assert said(verb.folder, 2) == said(undisturbed, 2)
    assert_same(verb.folder, undisturbed)


@pytest.mark.slow
@pytest.mark.skipif(not installed_vllm() and "CI" not in os.environ, reason="vLLM is not installed")
def test_engines_say_what_the_policys_own_ranks_would(start: Start, tmp_path: Path) -> None:
    """32 wide heads: vLLM has no others on processors."""
    recipe = talking(tmp_path, {"kind": "grpo"})
    wide = ("models.policy.init.num_heads=2", "train.steps=1", *FEW[1:])
    own = run(start, "train", recipe, *wide, folder="own")
    engines = run(start, "train", recipe, *wide, "rollout.engine=vllm", "placement.rollout.ranks=2", folder="engines")
    assert said(own, 1) == said(engines, 1)
    assert max(map(len, said(own, 1))) > 3


@pytest.mark.slow
def test_a_server_is_the_environment_that_its_class_is(start: Start, tmp_path: Path) -> None:
    """One that is busy now and then; each request is answered from itself alone."""
    here = run(start, "train", talking(tmp_path, {"kind": "grpo"}), *FEW, folder="here")
    with judging() as server:

        def answer(body: dict[str, Any]) -> Answer:
            busy = len(server.requests) % 7 == 0
            return (503, b"", {"Retry-After": "0"}) if busy else talker.answer(body)

        server.answer = answer
        http = {"url": server.url, "connections": 2}
        there = run(start, "train", talking(tmp_path, {"kind": "grpo"}, name=None, http=http), *FEW, folder="there")
    assert len(server.requests) > 4 * 24, "a request a turn"
    assert said(there, 4) == said(here, 4)
    assert_same(there, here)


def test_a_server_trains_until_it_answers_wrong(start: Start, tmp_path: Path) -> None:
    with judging() as server:
        recipe = talking(tmp_path, {"kind": "grpo"}, name=None, http={"url": server.url})

        def answer(body: dict[str, Any]) -> Answer:
            metrics = tmp_path / "wrong" / "metrics.jsonl"
            learned = metrics.is_file() and '"train"' in metrics.read_text()
            return (200, b'{"observation": "", "reward": NaN, "done": true}', {}) if learned else talker.answer(body)

        server.answer = answer
        verb = start("train", recipe, *FEW, "train.steps=99", folder="wrong")
        assert verb.end() == 2, verb.output
        verb.assert_nothing_left()
    where = r"rollout\.environment\.http \(http://\S+\), builtin:calculations/train:\d+, sample \d, turn \d"
    assert re.search(f"{where}: its reward is nan", verb.output), verb.output
    line = next(line for line in lines(verb.folder, "metrics") if line["split"] == "train")
    assert line["rollout/turns"] > 1
    assert line["rollout/observation_length"] > 0
    first = said(verb.folder, 1)
    assert {turn["by"] for turns in first for turn in turns} == {"policy", "environment"}
    assert sum(len(turns) // 2 + 1 for turns in first) / len(first) == pytest.approx(line["rollout/turns"])
    assert line["grad_norm"] > 0


@pytest.mark.slow
def test_an_environment_that_breaks_ends_the_run_with_its_name(start: Start, tmp_path: Path) -> None:
    recipe = talking(tmp_path, {"kind": "grpo"}, arguments={"broken_at": 2})
    verb = start("train", recipe, *FEW, folder="broken")
    assert verb.end() == 2, verb.output
    verb.assert_nothing_left()
    message = (
        r"environment tests.harness.talker:Talker, builtin:calculations/\w+:\d+, sample \d, turn 2: raised KeyError"
    )
    assert re.search(message, verb.output), verb.output
    assert exit_record(verb.folder)["exit_status"] == 2


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_a_policy_learns_to_ask_its_calculator(start: Start, seed: int) -> None:
    train, test = ({row["prompt"][0]["content"] for row in calculations(split)} for split in ("train", "test"))
    assert not train & test
    sft = run(start, "train", "tools-sft", f"seed={seed}", folder="sft")
    folder = run(start, "train", "tools-tiny", f"seed={seed}", f"models.policy.path=run:{sft}", folder="tools")
    table = json.loads((folder / "before_after.json").read_text())["metrics"]
    print(f"seed {seed}: score {table['objective/score']}, turns {table['objective/turns']}")
    assert '"alarm"' not in (folder / "events.jsonl").read_text()
    assert table["objective/score"]["before"] < 0.5
    assert table["objective/score"]["after"] > table["objective/score"]["before"] + 0.3
    assert table["objective/turns"]["after"] > table["objective/turns"]["before"]
