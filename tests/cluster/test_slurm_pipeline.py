"""A pipeline as dependent jobs, on two machines with a real Slurm."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cluster.bed import ROOT
from tests.cluster.slurm_bed import SlurmBed
from tests.cluster.slurm_runs import JOB_S, Run, assert_same_metrics, submitting
from tests.e2e.conftest import events, weights
from tests.harness.pipelines import LONG_SECOND, STAGES, judged, three_stages

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(1800)]


def test_a_pipeline_is_dependent_jobs_and_goes_on_at_the_stage_that_failed(
    slurm: SlurmBed, shared_folder: Path
) -> None:
    """The second stage is cancelled: the third's job goes with it; submitted again, the first is not done again, and
    every stage ends with the weights of a pipeline on one machine that nobody disturbed."""
    run = shared_folder / "pipeline"
    recipe = (three_stages(shared_folder / "three.yaml"), *LONG_SECOND)
    words = (*recipe, f"output_dir={run}")
    undisturbed = shared_folder / "undisturbed-pipeline"
    command = [sys.executable, "-m", "distft.cli", "train", *recipe, f"output_dir={undisturbed}"]
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "SLURM_"))}
    subprocess.run(command, env=kept | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}, check=True, timeout=JOB_S)

    done = submitting(slurm, run, *words)
    assert done.returncode == 0, done.stderr
    sft, dpo, kto, evaluation = done.stdout.split()
    assert f"afterok:{sft}" in slurm.job(dpo)["Dependency"]
    assert set(re.findall(r"afterok:(\d+)", slurm.job(evaluation)["Dependency"])) == {sft, dpo, kto}
    assert [slurm.job(job)["NumNodes"].partition("-")[0] for job in (dpo, evaluation)] == ["2", "1"]
    Run(slurm, sft, run / "sft").wait()
    second = Run(slurm, dpo, run / "dpo")
    second.wait_for_step(2)
    slurm.run(["scancel", dpo])
    assert slurm.wait(dpo, JOB_S) == "CANCELLED"
    assert slurm.wait(kto, JOB_S) == "CANCELLED"
    assert slurm.wait(evaluation, JOB_S) == "CANCELLED"

    done = submitting(slurm, run, *words)
    assert done.returncode == 0, done.stderr
    dpo, kto, evaluation = done.stdout.split()
    Run(slurm, evaluation, run / "judged").wait()
    assert [2 <= event["step"] < 300 for event in events(run / "dpo", "resume")] == [True]
    for stage in STAGES:
        assert_same_metrics(run / stage, undisturbed / stage)
        assert weights(run / stage) == weights(undisturbed / stage), stage
    assert judged(run) == judged(undisturbed)
