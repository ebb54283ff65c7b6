"""`distft fetch`: from a hub on this machine, and where there is none."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from distft.cli import main
from tests.harness.mirror import mirror
from tests.unit.models.tiny import tokenizer, write_model

PAIRS = [{"prompt": f"question {n}", "chosen": f" yes {n}", "rejected": f" no {n}"} for n in range(8)]
RECIPE = """\
format: 1
name: mine
output_dir: run
algorithm: {kind: dpo}
models: {policy: {path: someone/model}}
data: {train: [{path: someone/pairs}], max_length: 64, max_prompt_length: 32}
train: {steps: 1, global_batch_size: 2}
"""


@pytest.fixture
def hub(tmp_path: Path) -> dict[str, dict[str, Path]]:
    """What a hub has: a model and a data set."""
    write_model(tmp_path / "model")
    tokenizer().save_pretrained(tmp_path / "model")
    (tmp_path / "pairs").mkdir()
    (tmp_path / "pairs" / "train.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in PAIRS))
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "mine.yaml").write_text(RECIPE)
    return {"models": {"someone/model": tmp_path / "model"}, "datasets": {"someone/pairs": tmp_path / "pairs"}}


def distft(tmp_path: Path, *words: str, **environment: str) -> tuple[int, str]:
    """As a program of its own: the hub's libraries read its address when they are imported."""
    own = {"HF_HOME": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "distft", *words], cwd=tmp_path / "work", env=os.environ | own | environment,
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr


def test_what_was_fetched_is_found_without_a_network(tmp_path: Path, hub: dict[str, dict[str, Path]]) -> None:
    with mirror(**hub) as address:
        status, said = distft(tmp_path, "fetch", "mine.yaml", HF_ENDPOINT=address)
    assert status == 0, said
    assert "models.policy.path: someone/model: fetched" in said
    assert "data.train.0.path: someone/pairs: fetched" in said
    status, said = distft(tmp_path, "train", "mine.yaml", "--dry-run", HF_HUB_OFFLINE="1")
    assert (status, "mine: ready to start" in said) == (0, True), said
    status, said = distft(tmp_path, "fetch", "mine.yaml", "--dry-run", "--json", HF_HUB_OFFLINE="1")
    assert [one["state"] for one in json.loads(said)] == ["here already"] * 2


def test_without_a_network_it_says_where_to_fetch(tmp_path: Path, hub: dict[str, dict[str, Path]]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        address = f"http://127.0.0.1:{closed.getsockname()[1]}"
    status, said = distft(tmp_path, "fetch", "mine.yaml", HF_ENDPOINT=address)
    assert status == 3, said
    assert "models.policy.path: someone/model is not on this machine, and the hub does not answer" in said
    assert "run it where there is a network, with HF_HOME" in said
    assert "Traceback" not in said


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text(RECIPE)
    return tmp_path


def test_a_hub_that_is_switched_off_is_said_with_the_remedy(
    work: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert main(["fetch", "mine.yaml"]) == 2
    assert "unset HF_HUB_OFFLINE" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["ppo-tiny", "quickstart"])
def test_of_embedded_models_and_data_there_is_nothing_to_fetch(
    work: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    assert main(["fetch", name]) == 0
    assert capsys.readouterr().out == "nothing is taken from the hub\n"


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("models.policy.path=./mdel", "there is no folder ./mdel"),
        ("data.train.0.path=pairs.jsonl", "there is no such file"),
        ("models.policy.trust_remote_code=true", "which may be another tomorrow"),
    ],
)
def test_what_is_no_name_of_the_hub_is_an_error(
    work: Path, capsys: pytest.CaptureFixture[str], override: str, said: str
) -> None:
    assert main(["fetch", "mine.yaml", override, "--dry-run"]) == 2
    assert said in capsys.readouterr().err


def test_of_a_pipeline_all_stages_are_fetched(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (work / "lines.yaml").write_text(
        "format: 1\nname: lines\noutput_dir: runs/lines\nstages:\n"
        "  sft: {recipe: sft-tiny}\n"
        "  dpo:\n    recipe: mine.yaml\n"
        '    models: {policy: {path: "stage:sft"}, reference: {path: someone/other, differs: true}}\n'
        '  judge: {eval: ["stage:dpo", someone/third], data: [someone/rows], reward: someone/scores}\n'
    )
    assert main(["fetch", "lines.yaml", "--dry-run", "--json"]) == 0
    assert [(one["kind"], one["name"]) for one in json.loads(capsys.readouterr().out)] == [
        ("model", "someone/other"), ("dataset", "someone/pairs"), ("model", "someone/third"),
        ("model", "someone/scores"), ("dataset", "someone/rows"),
    ]  # fmt: skip
