"""The quickstart, as a user runs it: four real runs, and what their tables must say."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from distft.cli import main
from distft.data.builtin import dialogues
from distft.tracking.glossary import known
from tests.harness.better_share import better_share

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1500)]
STAGES = ("sft", "reward", "ppo", "dpo")


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the four runs."""
    folder = tmp_path_factory.mktemp("quickstart") / "q"
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "distft.cli", "quickstart", "--output", str(folder)],
        capture_output=True,
        text=True,
        timeout=1400,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        check=False,
    )
    print(f"\n{done.stdout[-3000:]}\nquickstart: {(time.monotonic() - started) / 60:.1f} minutes")
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


def table(output: Path, stage: str) -> dict[str, Any]:
    return dict(json.loads((output / stage / "before_after.json").read_text())["metrics"])


def test_supervised_loss_falls(output: Path) -> None:
    loss = table(output, "sft")["loss"]
    assert loss["after"] < 0.25 * loss["before"]


def test_reward_model_tells_the_better_answer(output: Path) -> None:
    assert table(output, "reward")["accuracy"]["after"] >= 0.90


def test_ppo_raises_the_score_by_a_deviation_of_the_start(output: Path) -> None:
    found = table(output, "ppo")
    score, deviation = found["objective/score"], found["objective/score_std"]["before"]
    assert score["after"] - score["before"] >= deviation > 0
    assert 0 < found["objective/kl"]["after"] < 50  # it moved, and the text is still the SFT model's kind


def test_dpo_prefers_the_better_answer(output: Path) -> None:
    assert table(output, "dpo")["rewards/accuracies"]["after"] >= 0.85


@pytest.mark.parametrize(("stage", "metric"), [("ppo", "objective/score"), ("dpo", "rewards/margins")])
def test_eval_in_one_process_finds_what_the_run_found(
    output: Path, stage: str, metric: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same rows, draws, reference and reward model, and for PPO the same tokens sampled."""
    assert main(["eval", f"run:{output / stage}", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["rows"] == json.loads((output / stage / "before_after.json").read_text())["rows"]
    assert told["models"][0]["metrics"][metric]["value"] == pytest.approx(
        table(output, stage)[metric]["after"], abs=1e-4
    )


@pytest.mark.parametrize(
    ("stage", "metric", "said"),
    [
        ("sft", "loss", "which is better"),
        ("ppo", "objective/scores", "It helped"),
        ("dpo", "rewards/margins", "It helped"),
    ],
)
def test_each_run_left_its_report(output: Path, stage: str, metric: str, said: str) -> None:
    text = (output / stage / "report.html").read_text(encoding="utf-8")
    charts = re.search(r'<script type="application/json" id="charts">(.*?)</script>', text, re.DOTALL)
    assert charts
    drawn = {chart["name"]: chart["series"] for chart in json.loads(charts[1])}
    lines = map(json.loads, (output / stage / "metrics.jsonl").read_text().splitlines())
    expected = [line[metric] for line in lines if line["split"] == "train"]
    assert drawn[metric][0]["y"] == pytest.approx(expected, rel=1e-4)
    assert said in text


def test_no_run_that_is_well_raises_an_alarm(output: Path) -> None:
    for stage in ("sft", "reward", "ppo", "dpo"):
        events = [json.loads(line) for line in (output / stage / "events.jsonl").read_text().splitlines()]
        assert events
        assert not [event for event in events if event["event"] == "alarm"]


def test_every_metric_is_in_the_glossary(output: Path) -> None:
    for stage in STAGES:
        lines = map(json.loads, (output / stage / "metrics.jsonl").read_text().splitlines())
        names = {name for line in lines for name in line} - {"format", "step", "time", "split", "nonfinite"}
        assert names
        assert [name for name in sorted(names) if known(name) is None] == []


@pytest.mark.parametrize("stage", ["sft", "dpo"])
def test_what_it_says_before_during_and_after_is_kept(output: Path, stage: str) -> None:
    lines = [json.loads(line) for line in (output / stage / "samples.jsonl").read_text().splitlines()]
    steps = sorted({line["step"] for line in lines})
    assert steps[0] == 0
    assert len(steps) >= 3
    before, after = ([line for line in lines if line["step"] == step] for step in (steps[0], steps[-1]))
    assert [line["prompt"] for line in before] == [line["prompt"] for line in after]
    assert all(line["completion"] and line["wanted"] for line in after)
    assert "## On" in (output / stage / "final" / "README.md").read_text()


def test_the_reward_model_scores_both_answers_before_and_after(output: Path) -> None:
    lines = [json.loads(line) for line in (output / "reward" / "samples.jsonl").read_text().splitlines()]
    last = [line for line in lines if line["step"] == max(line["step"] for line in lines)]
    assert {line["step"] for line in lines} > {0}
    assert [line["side"] for line in last] == ["chosen", "rejected"] * (len(last) // 2)
    right = [chosen["score"] > rejected["score"] for chosen, rejected in zip(last[0::2], last[1::2], strict=True)]
    assert sum(right) > len(right) / 2


def test_four_groups_of_two_ranks(output: Path) -> None:
    events = [json.loads(line) for line in (output / "ppo" / "events.jsonl").read_text().splitlines()]
    ready = {event["role"]: event["workers"] for event in events if event["event"] == "group_ready"}
    for role in ("policy", "reference", "reward", "value"):
        assert [worker["rank"] for worker in ready[role]] == [0, 1]
    pids = [worker["pid"] for workers in ready.values() for worker in workers]
    assert len(set(pids)) == len(pids) == 9  # eight ranks and the data worker


def test_the_timeline_shows_what_every_rank_did(output: Path) -> None:
    """Within a phase of the controller, as the clocks are one."""
    shown = json.loads((output / "ppo" / "timeline.json").read_text())
    names = {event["pid"]: event["args"]["name"] for event in shown if event["name"] == "process_name"}
    bars = [(names[event["pid"]], event) for event in shown if event["ph"] == "X"]
    for role in ("policy", "value"):
        assert {event["tid"] for who, event in bars if who == role and event["name"] == "update"} == {0, 1}
    phases = [event for who, event in bars if who == "controller" and event["name"] == "update"]
    updates = [event for who, event in bars if who == "policy" and event["name"] == "update"]
    for bar in updates:
        assert any(
            phase["ts"] - 1000 <= bar["ts"] and bar["ts"] + bar["dur"] <= phase["ts"] + phase["dur"] + 1000
            for phase in phases
        )


@pytest.mark.parametrize("stage", ["sft", "ppo", "dpo"])
def test_the_result_loads_and_reads_like_the_corpus(output: Path, stage: str) -> None:
    folder = output / stage / "final"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    rows = [row for row, _ in zip(dialogues("test"), range(40), strict=False)]
    answers = []
    torch.manual_seed(0)
    for row in rows:
        ids = tokenizer.apply_chat_template(
            row["prompt"], add_generation_prompt=True, return_tensors="pt", return_dict=True
        )["input_ids"]
        made = model.generate(input_ids=ids, do_sample=True, max_new_tokens=40)
        answers.append(tokenizer.decode(made[0, ids.shape[1] :], skip_special_tokens=True))
    words = [word for answer in answers for word in re.findall(r"[A-Za-z]+", answer)]
    known = set(re.findall(r"[A-Za-z]+", json.dumps(list(dialogues("train")))))
    assert len(words) > 40 * 3
    assert sum(word in known for word in words) > 0.9 * len(words)
    share = better_share([row["prompt"][0]["content"] for row in rows], answers)
    print(f"{stage}: {share:.2f} of the answers have three marks or more; e.g. {answers[0]!r}")


def test_finished_runs_are_not_done_again(output: Path) -> None:
    metrics = (output / "ppo" / "metrics.jsonl").read_bytes()
    done = subprocess.run(
        [sys.executable, "-m", "distft.cli", "quickstart", "--output", str(output)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0
    assert done.stdout.count("already finished") == len(STAGES)
    assert (output / "ppo" / "metrics.jsonl").read_bytes() == metrics
