"""The layouts as processes: alone, under torchrun, through Ray. Each is started once and does all its jobs."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.harness.jobs import Job, write_jobs

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 600  # far above the 20-90 of a quiet machine with two cores


def run_spmd(jobs: Sequence[Job], num_ranks: int, folder: Path) -> None:
    """One process a rank: one alone, more under torchrun."""
    command = [sys.executable, "-m"]
    if num_ranks > 1:
        command += ["torch.distributed.run", "--standalone", f"--nproc-per-node={num_ranks}", "-m"]
    _run([*command, "tests.harness.rank"], jobs, folder)


def run_ray(jobs: Sequence[Job], folder: Path) -> None:
    """Ray actors, as many a role as each job's recipe says."""
    _run([sys.executable, "-m", "tests.harness.ray_run"], jobs, folder)


def _run(command: list[str], jobs: Sequence[Job], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    write_jobs(jobs, folder / "jobs.json")
    log = folder / "log.txt"
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{os.environ.get('PYTHONPATH', '')}", "OMP_NUM_THREADS": "1"}
    with log.open("w") as file:
        process = subprocess.Popen(
            [*command, str(folder / "jobs.json")], cwd=ROOT, env=environment, stdout=file, stderr=subprocess.STDOUT
        )
        try:
            status = process.wait(SECONDS)
        except subprocess.TimeoutExpired:
            process.terminate()  # torchrun and Ray's driver end their children then
            status = process.wait(60) or 124
    assert status == 0, f"{' '.join(command)}: exit {status}\n{log.read_text()[-6000:]}"
