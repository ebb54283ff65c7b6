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
from tests.cluster.slurm_runs import SCRIPT
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


def state(slurm: SlurmBed, run: str | Path, folder: Path) -> dict[str, Any]:
    """What ``distft status --json`` says of a run."""
    told = distft("status", run, "--json", env=slurm.env, folder=folder)
    assert told.returncode == 0, told.stderr
    found: dict[str, Any] = json.loads(told.stdout)
    return found


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


# What a site brings, and a program that stands in the place of Python in a job and writes down what was loaded there.
MODULE = """module() {
    shift
    for name; do
        [[ -e $MODULESHOME/$name ]] || { echo "module: unable to locate $name" >&2; return 1; }
        export LOADEDMODULES=${LOADEDMODULES:+$LOADEDMODULES:}$name
    done
}
"""
PRINT_MODULES = '#!/bin/sh\necho "$LOADEDMODULES" >"$SEEN/$SLURMD_NODENAME"\n'


def test_the_doctor_sees_what_a_jobs_modules_bring(slurm: SlurmBed, shared_folder: Path) -> None:
    folder, site = shared_folder / "modules", shared_folder / "modules" / "site"
    (site / "init").mkdir(parents=True)
    (site / "init" / "bash").write_text(MODULE)
    for name in ("gcc", "cuda"):
        (site / name).touch()
    env = {"MODULESHOME": str(site), "SEEN": str(folder)}
    program = folder / "program"
    program.write_text(PRINT_MODULES)
    program.chmod(0o755)
    words: list[str | Path] = [
        "--module",
        "gcc",
        "--module",
        "cuda",
        "--python",
        program,
        "--run-dir",
        folder / "run",
        "sft-tiny",
    ]
    job = slurm.sbatch([f"--chdir={folder}", SCRIPT, *words], env=env)
    slurm.wait(job, 60)
    assert {(folder / node).read_text() for node in ("n1", "n2")} == {"gcc:cuda\n"}

    shipped = (ROOT / "cluster_configs" / "slurm-cpu.yaml").read_text()
    ours, lost = folder / "ours.yaml", folder / "lost.yaml"
    ours.write_text(f"{shipped}modules: [gcc, cuda]\nvirtualenv: {sys.prefix}\n")
    lost.write_text(f"{shipped}modules: [gcc, nccl]\n")
    told = distft("doctor", "--cluster", ours, "--json", env=slurm.env | env, folder=folder)
    report = json.loads(told.stdout)
    assert report["ok"], report
    found = {finding["check"]: finding["found"] for finding in report["findings"]}
    assert found["modules"] == "loaded on every node: gcc, cuda"

    told = distft("doctor", "--cluster", lost, "--json", env=slurm.env | env, folder=folder)
    assert told.returncode == 3, told
    (finding,) = json.loads(told.stdout)["findings"]
    assert (finding["check"], finding["state"]) == ("nodes", "wrong")
    assert "module load gcc nccl failed" in finding["found"]
