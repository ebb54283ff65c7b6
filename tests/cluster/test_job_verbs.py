"""status, logs, cancel and doctor on Slurm: the same verbs as of a run on this machine."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.bed import ROOT
from tests.cluster.slurm_bed import SlurmBed
from tests.e2e.conftest import SFT, checkpoints, exit_record, lines

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

DEADLINE_S = 240.0
SUBMIT = ("submit", "slurm", *SFT[1:], "--cluster", "slurm-cpu", "output_dir=run", "train.steps=100000",
          "checkpoint.every=50000")  # fmt: skip


def distft(*words: str | Path, env: Mapping[str, str], folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "distft.cli", *map(str, words)], cwd=folder, timeout=DEADLINE_S, check=False,
        env=dict(env) | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}, capture_output=True, text=True,
    )  # fmt: skip


def steps(run: Path) -> list[dict[str, Any]]:
    """The lines of training steps so far."""
    return [line for line in lines(run, "metrics") if line["split"] == "train"]


def until(condition: Callable[[], Any], what: str) -> Any:
    limit = time.monotonic() + DEADLINE_S
    while not (found := condition()):
        assert time.monotonic() < limit, what
        time.sleep(0.2)
    return found


def test_a_job_is_watched_cancelled_with_a_checkpoint_and_not_requeued(slurm: SlurmBed, shared_folder: Path) -> None:
    folder = shared_folder / "watched"
    folder.mkdir()
    run = folder / "run"
    submitted = distft(*SUBMIT, env=slurm.env, folder=folder)
    assert submitted.returncode == 0, submitted.stderr
    job = submitted.stdout.strip()
    until(lambda: steps(run), "steps")
    told = json.loads(distft("status", "run", "--json", env=slurm.env, folder=folder).stdout)
    assert (told["state"], told["job"]["phase"], told["jobs"][0]["job_id"]) == ("running", "running", job)
    asked = distft("cancel", "run", env=slurm.env, folder=folder)
    assert "to stop after its step, with a checkpoint" in asked.stdout, asked
    followed = distft("logs", "run", "-f", env=slurm.env, folder=folder)
    assert followed.returncode == 75, followed
    assert exit_record(run)["class"] == "cancelled"
    assert checkpoints(run)
    until(lambda: slurm.job(job)["JobState"] not in ("RUNNING", "COMPLETING"), "the job's end")
    assert slurm.job(job)["JobState"] != "PENDING", "what a person stopped stays stopped"
    assert slurm.job(job)["Restarts"] == "0"


def test_a_job_that_waits_is_taken_back(slurm: SlurmBed, shared_folder: Path) -> None:
    folder = shared_folder / "waiting"
    folder.mkdir()
    blocker = slurm.sbatch(["-N2", "--exclusive", "--wrap", "sleep 300"])
    try:
        slurm.wait_for(blocker, "RUNNING", 30)
        job = distft(*SUBMIT, env=slurm.env, folder=folder).stdout.strip()
        told = json.loads(distft("status", "run", "--json", env=slurm.env, folder=folder).stdout)
        assert (told["state"], told["job"]["said"]) == ("waiting", "PENDING")
        assert "still waiting and has been taken back" in distft("cancel", "run", env=slurm.env, folder=folder).stdout
        assert slurm.job(job)["JobState"] == "CANCELLED"
    finally:
        slurm.run(["scancel", blocker])


def test_the_doctor_asks_slurm_for_nodes(slurm: SlurmBed, shared_folder: Path) -> None:
    told = distft("doctor", "--cluster", "slurm-cpu", "--json", env=slurm.env, folder=shared_folder)
    report = json.loads(told.stdout)
    assert report["ok"], report
    found = {finding["check"]: finding["found"] for finding in report["findings"]}
    assert found["nodes"] == "2: n1, n2"
    assert "gloo, 2 ranks: sums right" in found["network"]
    assert found["agent"] == "Ray starts, and its agent answers 401 without the token"
