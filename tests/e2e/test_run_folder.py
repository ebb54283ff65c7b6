"""The run folder belongs to one process, survives a full disk, and holds no secret."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from distft.cli import main
from distft.tracking.wandb_backend import AXES
from tests.e2e.conftest import SECRETS, SFT, URL_SECRET, Start, checkpoints, events, exit_record, lines, weights
from tests.harness.disks import small_disk
from tests.harness.wandb_records import assert_each_step_once, of_type, rows, table

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]


def holding(folder: Path, secret: str) -> list[str]:
    """The files below ``folder`` with this text in them."""
    found = [path for path in sorted(folder.rglob("*")) if path.is_file() and not path.is_symlink()]
    return [str(path.relative_to(folder)) for path in found if secret.encode() in path.read_bytes()]


def test_no_file_of_a_run_holds_a_secret(sft: Path) -> None:
    assert holding(sft, "sft-tiny"), "the search finds what is there"
    assert any(name.startswith("wandb/") for name in holding(sft, "example.org")), "the tag is there"
    for secret in (*SECRETS.values(), URL_SECRET):
        assert holding(sft, secret) == []


def test_the_copy_in_wandb_is_whole(sft: Path) -> None:
    """Names, axes, config, table and artifacts, by W&B's own reader."""
    assert_each_step_once(sft, lines(sft, "metrics"))
    [run] = of_type(sft, "run")
    assert (run["project"], run["run_group"], run["job_type"], run["display_name"]) == (
        "distft", "sft-tiny", "sft", "sft-tiny"
    )  # fmt: skip
    assert "recipe-sft-tiny" in run["tags"]
    config = run["config"]["update"]
    assert config["train"]["steps"] == 6
    assert config["deepspeed"]["policy"]["zero_optimization"]["stage"] == 3
    assert config["plan"] == json.loads((sft / "plan.json").read_text())
    axes = {one.get("name") or one["glob_name"]: one.get("step_metric") for one in of_type(sft, "metric")}
    assert set(AXES) <= axes.keys()
    assert [axes[name] for name in ("train/*", "eval/*", "completions")] == ["step"] * 3
    last = rows(sft)[-1]
    assert all(name in last for name in (*AXES, "train/learning_rate", "eval/val/rougeL", "_runtime", "_timestamp"))
    said = [[one["step"], one["prompt"], one["completion"], one["score"]] for one in lines(sft, "samples")]
    assert table(sft) == said
    kept = {one["type"]: one["manifest"]["contents"] for one in of_type(sft, "artifact")}
    assert [one["path"] for one in kept["recipe"]] == ["recipe.yaml"]
    assert [(one["path"], int(one["size"])) for one in kept["report"]] == [
        ("report.html", (sft / "report.html").stat().st_size)
    ]
    assert f"file://{sft.resolve()}/final/model.safetensors" in [one["ref"] for one in kept["model"]]


def test_what_it_answers_before_and_after_is_kept_and_judged_as_eval_does(
    sft: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    samples = lines(sft, "samples")
    assert [one["step"] for one in samples] == [0] * 4 + [6] * 4
    assert {one["split"] for one in samples} == {"eval"}
    assert [one["prompt"] for one in samples[:4]] == [one["prompt"] for one in samples[4:]]
    assert all(one["wanted"] for one in samples)
    table = json.loads((sft / "before_after.json").read_text())["metrics"]
    assert main(["eval", f"run:{sft}", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["models"][0]["metrics"]
    for name in ("rougeL", "f1"):
        assert table[f"val/{name}"]["after"] == pytest.approx(found[name]["value"], abs=1e-6)
    assert table["objective/length"]["after"] == pytest.approx(found["objective/length"]["value"])


def test_a_second_process_is_refused_naming_the_owner_and_a_failed_run_holds_no_secret(start: Start) -> None:
    """Ray's own logs, kept of a run that failed, are searched too."""
    first = start(*SFT)
    first.wait_for(lambda: (first.folder / "lease.json").exists(), "lease")
    second = start(*SFT)
    assert second.end(60) == 2, second.output
    assert f"{first.folder}: another process writes this run: process {first.process.pid} of " in second.output
    assert "Traceback" not in second.output
    assert "starting workers" not in second.output
    first.wait_for_stage("policy-0", "loading")
    os.kill(first.pid("policy", 0), signal.SIGKILL)
    assert first.end(60) == 1, first.output
    assert list((first.folder / "logs" / "ray").iterdir())
    for secret in SECRETS.values():
        assert holding(first.folder, secret) == []
    assert len(events(first.folder, "start")) == 1, "the second has written nothing"


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """``RUN/checkpoints`` on a disk with room for one checkpoint and a half."""
    folder = tmp_path / "run" / "checkpoints"
    folder.mkdir(parents=True)
    with small_disk(folder, 1):
        yield folder


@pytest.mark.slow
def test_a_full_disk_costs_a_checkpoint_and_not_the_run(sft: Path, disk: Path, start: Start) -> None:
    verb = start(*SFT)
    assert verb.end() == 0, verb.output
    failed = events(verb.folder, "checkpoint_failed")
    assert [event["step"] for event in failed] == [4, 6]
    assert re.match(r"checkpoint of step 4: policy rank \d: .* \(\d+ bytes are free\)", failed[0]["cause"])
    assert verb.output.count("checkpoint of step 4: policy rank") == 1, "loudly"
    assert checkpoints(verb.folder) == [2]
    assert weights(verb.folder) == weights(sft)
    # The one before is intact: going on from it gives the same again.
    (verb.folder / "exit.json").unlink()
    subprocess.run(["mount", "-o", "remount,size=16M", str(disk)], check=True)
    verb = start(*SFT)
    assert verb.end() == 0, verb.output
    assert [event["step"] for event in events(verb.folder, "resume")] == [2]
    assert checkpoints(verb.folder) == [2, 4, 6][-2:]
    assert weights(verb.folder) == weights(sft)
    assert [line["step"] for line in lines(verb.folder, "metrics") if line["split"] == "train"] == [1, 2, 3, 4, 5, 6]


@pytest.mark.slow
def test_a_disk_that_stays_full_ends_the_run(disk: Path, start: Start) -> None:
    verb = start(*SFT, "train.steps=12")
    assert verb.end() == 1, verb.output
    assert "3 checkpoints in a row failed" in verb.output
    assert exit_record(verb.folder)["class"] == "checkpoint"
    assert checkpoints(verb.folder) == [2]
    verb.assert_nothing_left()
