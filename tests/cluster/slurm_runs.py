"""Real runs as jobs of the bed's Slurm: submitted as a user would, watched through what they write."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.cluster.bed import ROOT
from tests.cluster.slurm_bed import SlurmBed
from tests.e2e.conftest import TINY, computed, lines

SCRIPT = ROOT / "slurm" / "train.sbatch"
STEPS = 6
ROLES = ("policy", "reference", "reward", "value")
JOB_S = 480.0

# The shipped PPO recipe with a tinier model and few rows: what takes time is starting nine processes on two cores.
PPO = (
    "ppo-tiny", *TINY, *(word.replace("models.policy.", "models.reward.") for word in TINY),
    "train.global_batch_size=8", "checkpoint.every=50", "evaluation.every=0", "evaluation.max_samples=8",
    "rollout.max_new_tokens=12", "data.train.0.limit=64", "data.eval.0.limit=8", "data.test.0.limit=8",
)  # fmt: skip


@dataclass(frozen=True)
class Run:
    """A job and the run folder that it works on."""

    bed: SlurmBed
    job: str
    folder: Path

    @property
    def output(self) -> str:
        """What the job has printed so far."""
        found = [*self.folder.glob(f"logs/slurm-{self.job}.out"), *self.folder.parent.glob(f"slurm-{self.job}.out")]
        return "".join(path.read_text(errors="replace") for path in found)

    def wait(self, state: str = "COMPLETED", timeout: float = JOB_S) -> None:
        """Until the job has ended for good, in this state."""
        found = self.bed.wait(self.job, timeout)
        assert found == state, f"{found}\n{self.output}\n{self.logs()}"

    def wait_for_step(self, step: int = 1, timeout: float = JOB_S) -> None:
        """Until the run has trained this step."""
        self.until(lambda: step in self.steps(), f"step {step}", timeout)

    def until(self, condition: Callable[[], Any], what: str, timeout: float = JOB_S) -> None:
        """Until it is so."""
        limit = time.monotonic() + timeout
        while not condition():
            assert time.monotonic() < limit, f"no {what} within {timeout} s\n{self.output}\n{self.logs()}"
            time.sleep(0.2)

    def steps(self) -> list[int]:
        """The steps trained so far."""
        return [line["step"] for line in lines(self.folder, "metrics") if line["split"] == "train"]

    def status(self, start: int = 0) -> dict[str, Any]:
        """How a start of the job ended, by its own account."""
        content = json.loads((self.folder / "launch" / f"{self.job}.{start}" / "status.json").read_text())
        assert isinstance(content, dict)
        return content

    def logs(self) -> str:
        """The launchers' logs."""
        found = sorted(self.folder.glob("logs/node-*.log"))
        return "\n".join(f"==> {path.name}\n{path.read_text(errors='replace')[-3000:]}" for path in found)


def submit(
    bed: SlurmBed,
    folder: Path,
    *words: str,
    steps: int = STEPS,
    cluster: str = "slurm-cpu",
    recipe: Sequence[str] = PPO,
) -> Run:
    """``distft submit slurm`` on this machine, as on a login node."""
    done = submitting(bed, folder, *recipe, f"train.steps={steps}", f"output_dir={folder}", *words, cluster=cluster)
    assert done.returncode == 0, done.stderr
    return Run(bed, done.stdout.strip(), folder)


def submitting(
    bed: SlurmBed, folder: Path, *words: str, cluster: str = "slurm-cpu"
) -> subprocess.CompletedProcess[str]:
    """The verb, whatever comes of it."""
    command = [sys.executable, "-m", "distft.cli", "submit", "slurm", "--cluster", cluster, *words]
    return subprocess.run(
        command, cwd=folder.parent, env=bed.env | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False
    )


def sbatch(bed: SlurmBed, folder: Path, *options: str, steps: int = STEPS, words: Sequence[str] = ()) -> Run:
    """Plain sbatch of the script, with options for sbatch and words for the recipe."""
    argv = [*options, f"--chdir={folder.parent}", str(SCRIPT), "--python", sys.executable, *PPO]
    argv += [f"train.steps={steps}", f"output_dir={folder}", *words]
    return Run(bed, bed.sbatch(argv, env={"PYTHONPATH": str(ROOT)}), folder)


def here(folder: Path, *, steps: int = STEPS, recipe: Sequence[str] = PPO) -> Path:
    """The same run on this one machine, undisturbed."""
    command = [sys.executable, "-m", "distft.cli", "train", *recipe, f"train.steps={steps}", f"output_dir={folder}"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "SLURM_"))}
    done = subprocess.run(
        command, cwd=folder.parent, env=environment | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, timeout=JOB_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def assert_same_metrics(run: Path, reference: Path, rtol: float = 1e-4) -> None:
    """Every computed number of every line, of the held-out lines too."""
    ours, theirs = computed(run), computed(reference)
    assert [(line["split"], line["step"]) for line in ours] == [(line["split"], line["step"]) for line in theirs]
    for mine, other in zip(ours, theirs, strict=True):
        assert mine.keys() == other.keys()
        for name, value in other.items():
            if isinstance(value, int | float):
                where = f"{mine['split']} step {mine['step']}: {name}: {mine[name]} and {value}"
                assert abs(mine[name] - value) <= rtol * abs(value) + 1e-7, where
