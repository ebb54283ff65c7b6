"""Offline runs reach a server by W&B's own client, and a run that was killed and resumed has each step once there."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml
from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args

from distft.arguments import parse
from distft.cli import main
from distft.config.load import load_recipe
from distft.tracking.wandb_backend import wandb_options
from tests.harness.wandb_records import rows, steps, table
from tests.harness.wandb_server import WandbServer, wandb_server

ROOT = Path(__file__).resolve().parents[3]
# Steps 1 to 4 of a first start, then 3 to 6: its checkpoint was of step 2, and it was killed.
START = """
import os, sys, time
from pathlib import Path
from distft.tracking.metrics import Sample
from distft.tracking.tracker import Tracker
from distft.tracking.wandb_backend import WandbOptions
from distft.tracking.alarms import Alarm
run, first, last, mode, run_id, killed = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), *sys.argv[4:7]
pause = int(os.environ.get("PAUSE_AT", 0))
options = WandbOptions(
    mode, "distft", "my-run", "sft", "my-group", tags=("mine",), config={"seed": 1}, run_id=run_id or None
)
tracker = Tracker(run, attempt=1, resume_step=first - 1 or None, total_steps=6, wandb=options)
print(tracker.wandb_id)
for step in range(first, last + 1):
    tracker.log(step, {"loss": 1 / step, "num_tokens": 10 * step, "optimizer_steps": step})
    if step % 2 == 0:
        tracker.log(step, {"loss": 2 / step}, "eval")
        tracker.samples(step, [Sample("q", f"answer {step}", 0.5)], "eval")
    until = time.monotonic() + 100
    while step == pause and time.monotonic() < until and not (run / "go on").exists():
        time.sleep(0.1)
if killed:
    from tests.harness.wandb_records import steps
    sys.stdout.flush()
    until = time.monotonic() + 100
    while time.monotonic() < until and 3 not in steps(run, "train"):
        time.sleep(0.5)
    assert 3 in steps(run, "train"), "step 3 is not in the folder after 100 s"
    os.kill(os.getpid(), 9)
(run / "recipe.yaml").write_text("seed: 1")
for kind, name in (("recipe", "recipe.yaml"), ("model", "final")):  # there is no model
    tracker.keep(kind, run / name)
tracker.alarm(last, Alarm("planted", "said", "do"))
tracker.close()
"""


def started(run: Path, first: int, last: int, *, mode: str = "offline", run_id: str = "", killed: bool = False,
            **environment: str) -> str:  # fmt: skip
    """The id of the run in W&B."""
    command = [sys.executable, "-c", START, str(run), str(first), str(last), mode, run_id, "yes" if killed else ""]
    env = {"PATH": "/usr/bin:/bin", "HOME": str(run.parent), "PYTHONPATH": str(ROOT), **environment}
    done = subprocess.run(command, capture_output=True, text=True, env=env, cwd=run.parent, check=False, timeout=240)
    assert done.returncode == (-9 if killed else 0), done.stderr
    return done.stdout.split()[0]


def synced(run: Path, *words: str, **environment: str) -> str:
    """What the command prints: a process of its own, as W&B's client reads its environment once."""
    command = [sys.executable, "-m", "distft.cli", "sync", str(run), *words]
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, **environment}, check=False, timeout=240
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def assert_known_as_begun(server: WandbServer) -> None:
    """The server's one run has its project, name, group, type, tags and config, whatever was sent of it when."""
    [bucket] = server.buckets.values()
    assert (bucket["project"], bucket["displayName"], bucket["groupName"], bucket["jobType"]) == (
        "distft", "my-run", "my-group", "sft",
    )  # fmt: skip
    assert bucket["tags"] == ["mine"]
    assert json.loads(bucket["config"])["seed"]["value"] == 1


def wait_for_rows(server: WandbServer, number: int) -> None:
    until = time.monotonic() + 90
    while len(server.rows) < number:
        assert time.monotonic() < until, f"{len(server.rows)} of {number} rows after 90 s"
        time.sleep(0.1)


@pytest.fixture(scope="module")
def resumed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("wandb") / "run"
    run.mkdir()
    run_id = started(run, 1, 4, killed=True)
    assert started(run, 3, 6, run_id=run_id) == run_id
    return run


@pytest.mark.slow
def test_no_step_is_twice_after_a_kill_and_a_resume(resumed: Path) -> None:
    assert len(list(resumed.glob("wandb/offline-run-*"))) == 2
    assert steps(resumed, "train") == [1, 2, 3, 4, 5, 6]
    assert steps(resumed, "eval") == [2, 4, 6]
    assert [row["train/loss"] for row in rows(resumed) if "train/loss" in row] == [1 / step for step in range(1, 7)]
    assert table(resumed) == [[step, "q", f"answer {step}", 0.5] for step in (2, 4, 6)]
    last = max(resumed.glob("wandb/*/files/media/table/*.json"), key=lambda path: path.stat().st_mtime_ns)
    assert json.loads(last.read_text())["data"], "what is sent is what was added"


@pytest.mark.slow
def test_they_are_sent_as_one_run(
    resumed: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["sync", str(resumed), "--dry-run"]) == 0
    assert "Would sync 2 run(s)" in capfd.readouterr().err
    with wandb_server() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        monkeypatch.setenv("WANDB_API_KEY", "0badc0de" * 5)
        assert main(["sync", str(resumed)]) == 0, capfd.readouterr().err
    [run_id] = server.buckets
    assert next(resumed.glob(f"wandb/offline-run-*-{run_id}"))
    assert_known_as_begun(server)
    assert [row["step"] for _, row in sorted(server.rows.items())] == [1, 2, 3, 4, 5, 6]
    assert server.alerts == ["planted at step 6"]


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["online", "shared"])
def test_a_run_on_line_goes_on_at_the_server(tmp_path: Path, mode: str) -> None:
    run = tmp_path / "run"
    run.mkdir()
    with wandb_server() as server:
        online = {"WANDB_BASE_URL": server.url, "WANDB_API_KEY": "0badc0de" * 5}
        run_id = started(run, 1, 4, mode=mode, **online)
        started(run, 3, 6, mode=mode, run_id=run_id, **online)
    assert list(server.buckets) == [run_id]
    found = [row for _, row in sorted(server.rows.items())]
    assert [row["step"] for row in found if "train/loss" in row] == [1, 2, 3, 4, 5, 6]
    assert [row["step"] for row in found if "eval/loss" in row] == [2, 4, 6]
    assert ("recipe", f"recipe-{run_id}") in server.artifacts
    assert "model" not in dict(server.artifacts), "there is none"


@pytest.mark.slow
@pytest.mark.parametrize("silent", [False, True], ids=["nobody", "silent"])
def test_a_server_that_is_not_there_keeps_nobody_from_the_end_and_is_told_later(
    tmp_path: Path, silent: bool, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A port where nobody listens, and one where what is asked is never answered."""
    run = tmp_path / "run"
    run.mkdir()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        if not silent:
            listening.close()
        online = {"WANDB_BASE_URL": f"http://127.0.0.1:{port}", "WANDB_API_KEY": "0badc0de" * 5}
        run_id = started(run, 1, 6, mode="online", **online)
    assert len((run / "metrics.jsonl").read_text().splitlines()) == 9
    [kept] = run.glob("wandb/*run-*")
    assert kept.name.startswith("offline-run-")
    assert steps(run, "train") == [1, 2, 3, 4, 5, 6]
    with wandb_server() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        monkeypatch.setenv("WANDB_API_KEY", "0badc0de" * 5)
        assert main(["sync", str(run)]) == 0, capfd.readouterr().err
    assert list(server.buckets) == [run_id]
    assert [row["step"] for _, row in sorted(server.rows.items())] == [1, 2, 3, 4, 5, 6]


@pytest.mark.slow
def test_what_a_server_that_goes_away_meanwhile_lacks_is_caught_up(tmp_path: Path) -> None:
    """It takes some steps, is away until the run has ended, and is back when the rest is sent, once."""
    run = tmp_path / "run"
    run.mkdir()
    with wandb_server() as server, ThreadPoolExecutor() as beside:
        online = {"WANDB_BASE_URL": server.url, "WANDB_API_KEY": "0badc0de" * 5}
        going = beside.submit(started, run, 1, 6, mode="online", PAUSE_AT="4", **online)
        wait_for_rows(server, 3)
        server.away = True
        (run / "go on").touch()
        run_id = going.result()
        assert len((run / "metrics.jsonl").read_text().splitlines()) == 9
        assert 3 <= len(server.rows) < 6, "the outage is one"
        assert "what W&B lacks of it would be sent" in synced(run, "--dry-run", **online)
        assert len(server.rows) < 6
        server.away = False
        for _ in range(2):
            assert "W&B has all of it" in synced(run, **online)
            found = [row for _, row in sorted(server.rows.items())]
            assert [row["step"] for row in found] == [1, 2, 3, 4, 5, 6]
            assert [row["step"] for row in found if "eval/loss" in row] == [2, 4, 6]
            assert [row["step"] for row in found if "completions" in row] == [2, 4, 6]
            assert [row["train/loss"] for row in found] == [1 / step for step in range(1, 7)]
    assert list(server.buckets) == [run_id]
    assert_known_as_begun(server)
    assert ("recipe", f"recipe-{run_id}") in server.artifacts
    with wandb_server() as another:  # which has never heard of it
        assert "W&B has all of it" in synced(run, **{**online, "WANDB_BASE_URL": another.url})
    assert_known_as_begun(another)
    assert [row["step"] for _, row in sorted(another.rows.items())] == [1, 2, 3, 4, 5, 6]


@pytest.mark.slow
def test_what_an_earlier_start_could_not_send_the_next_one_sends_first(tmp_path: Path) -> None:
    """The server went away from the first, the second was kept offline, the third is on line: one run, no step missing
    and none twice, whatever is sent later."""
    run = tmp_path / "run"
    run.mkdir()
    with wandb_server() as server, ThreadPoolExecutor() as beside:
        online = {"WANDB_BASE_URL": server.url, "WANDB_API_KEY": "0badc0de" * 5}
        going = beside.submit(started, run, 1, 3, mode="online", PAUSE_AT="2", **online)
        wait_for_rows(server, 1)
        server.away = True
        (run / "go on").touch()
        run_id = going.result()
        assert len(server.rows) < 3, "the outage is one"
        started(run, 4, 4, mode="offline", run_id=run_id)
        server.away = False
        started(run, 5, 6, mode="online", run_id=run_id, **online)
        for _ in range(2):
            found = [row for _, row in sorted(server.rows.items())]
            assert [row["step"] for row in found] == [1, 2, 3, 4, 5, 6]
            assert [row["step"] for row in found if "completions" in row] == [2, 4, 6]
            assert [row["train/loss"] for row in found] == [1 / step for step in range(1, 7)]
            assert "W&B has all of it" in synced(run, **online)
    assert list(server.buckets) == [run_id]
    assert_known_as_begun(server)


def test_nothing_to_send_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sync", str(tmp_path)]) == 2
    assert "holds nothing of Weights & Biases" in capsys.readouterr().err


def test_the_documented_sweep_is_a_command_that_is_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """W&B's own code makes the command of the sweep's file, a shell reads it, and distft parses what comes of it."""
    text = (ROOT / "distft" / "recipes" / "README.md").read_text()
    sweep = yaml.safe_load(text.split("```yaml\n# sweep.yaml\n", 1)[1].split("```", 1)[0])
    agreed = {name: {"value": (one.get("values") or [one.get("min")])[0]} for name, one in sweep["parameters"].items()}
    made = create_sweep_command_args({"args": agreed, "command": sweep["command"]})
    words: list[str] = []
    for part in create_sweep_command(sweep["command"]):
        words += made[part[2:-1]] if part.startswith("${") and part.endswith("}") else [part]
    shown = tmp_path / "distft"
    shown.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    shown.chmod(0o755)
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "WANDB_RUN_ID": "abc12345"}
    told = subprocess.run(words, capture_output=True, text=True, env=environment, check=True).stdout.splitlines()
    parsed = parse(told)
    recipe = load_recipe(parsed.recipe, parsed.overrides)
    assert (recipe.output_dir, recipe.tracking.wandb.mode) == ("runs/sweep/abc12345", "online")
    assert recipe.optimizer.learning_rate == agreed["optimizer.learning_rate"]["value"]
    for name, value in (("WANDB_RUN_ID", "abc12345"), ("WANDB_SWEEP_ID", "s1")):
        monkeypatch.setenv(name, value)
    assert wandb_options(recipe).run_id == "abc12345", "the agent knows the run by this id"
    monkeypatch.delenv("WANDB_SWEEP_ID")
    assert wandb_options(recipe).run_id is None


def test_a_run_of_which_nothing_is_known_is_refused_once_the_others_were_tried(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    unknown, kept = tmp_path / "unknown", tmp_path / "kept"
    for path in (unknown / "wandb/run-20261128_070000-abc12345", kept / "wandb/offline-run-20261128_070000-abc12346"):
        path.mkdir(parents=True)
        (path / f"run-{path.name.rpartition('-')[2]}.wandb").touch()
    assert main(["sync", str(tmp_path), str(unknown), str(kept), "--dry-run"]) == 2
    said = capfd.readouterr().err
    assert f"{tmp_path}: holds nothing of Weights & Biases" in said
    assert "say nothing of the run" in said
    assert "abc12346" in said, "the other one is given to W&B's client"
