"""Submitting, as far as it goes without Slurm; the rest is in tests/cluster."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from distft.common.errors import EnvironmentFallsShort, UserError
from distft.config.load import load_recipe
from distft.launch.slurm import SlurmJob, Submission, _environment, _exit_code, cancel_job, job_state, submit
from distft.launch.slurm_options import checkable


@pytest.fixture(autouse=True)
def _no_slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")


def dry_run(
    *overrides: str, cluster: str = "slurm-cpu", array: str | None = None, after: tuple[str, ...] = ()
) -> Submission:
    recipe = load_recipe("sft-tiny", checkable(overrides, array))
    return submit(recipe, "sft-tiny", overrides, cluster, array=array, after=after, dry_run=True)


def cluster_file(tmp_path: Path, **keys: object) -> str:
    path = tmp_path / "mine.yaml"
    node = {"cpus": 2, "ranks_per_cpu": 4, "gpus": 0, "memory_gib": 8}
    path.write_text(json.dumps({"name": "mine", "kind": "slurm", "nodes": 2, "node": node, **keys}))
    return str(path)


def test_a_dry_run_needs_no_slurm_and_writes_nothing(tmp_path: Path) -> None:
    found = dry_run("train.steps=30")
    assert found.job_id is None
    assert found.command[0] == "sbatch"
    assert found.command[-3:] == ("--cluster", "slurm-cpu", "train.steps=30")
    assert found.shell.startswith(f"mkdir -p -- {tmp_path}/work/runs/sft-tiny/logs && sbatch ")
    assert list((tmp_path / "work").iterdir()) == []


def test_without_slurm_submitting_says_so_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentFallsShort, match="no Slurm here: sinfo is not found"):
        submit(load_recipe("sft-tiny", []), "sft-tiny", [], "slurm-cpu")
    assert list((tmp_path / "work").iterdir()) == []
    for ask in (job_state, cancel_job):
        with pytest.raises(EnvironmentFallsShort):
            ask("1")


def test_only_a_slurm_cluster_takes_slurm_jobs() -> None:
    with pytest.raises(UserError, match="is of kind local"):
        dry_run(cluster="local")


def test_what_does_not_fit_is_not_submitted(tmp_path: Path) -> None:
    node = {"cpus": 2, "ranks_per_cpu": 4, "gpus": 0, "memory_gib": 0.5}
    with pytest.raises(UserError, match="does not fit"):
        dry_run(cluster=cluster_file(tmp_path, node=node))


def test_a_variable_to_be_passed_on_must_be_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = cluster_file(tmp_path, environment={"MY_TOKEN": None})
    with pytest.raises(UserError, match="MY_TOKEN is to be passed on, but is not set here"):
        dry_run(cluster=path)
    monkeypatch.setenv("MY_TOKEN", "a-secret-value")
    found = dry_run(cluster=path)
    assert "a-secret-value" not in found.shell
    assert found.shell.count(" && cp -- ") == 1, "the cluster file as it is now"


def test_an_array_has_a_run_folder_a_task(tmp_path: Path) -> None:
    found = dry_run("seed={task}", "output_dir=x-{task}", array="3-4")
    assert [path.name for path in found.run_dirs] == ["x-3", "x-4"]
    assert found.command[-2:] == ("seed={task}", "output_dir=x-{task}")


def test_a_job_that_waits_may_start_from_what_is_still_to_be_made() -> None:
    words = ("models.policy.path=run:runs/not-yet",)
    with pytest.raises(UserError, match="does not exist"):
        dry_run(*words)
    assert "--dependency=afterok:7" in dry_run(*words, after=("7",)).command


def test_an_allocation_around_the_submission_gives_no_options() -> None:
    there = {"SLURM_CONF": "/c", "SLURM_JOB_ID": "1", "SLURM_MEM_PER_NODE": "5", "SBATCH_ACCOUNT": "a", "PATH": "/p"}
    assert _environment(there) == {"SLURM_CONF": "/c", "SBATCH_ACCOUNT": "a", "PATH": "/p"}


@pytest.mark.parametrize(("text", "code"), [("0:0", 0), ("75:0", 75), ("0:9", 137), ("", None), ("x", None)])
def test_exit_codes_as_a_shell_counts_them(text: str, code: int | None) -> None:
    assert _exit_code(text) == code


def test_what_slurm_says_of_a_job(tmp_path: Path) -> None:
    program = tmp_path / "bin" / "scontrol"
    line = "JobId=7 JobName=a b State=no JobState=RUNNING Reason=None ExitCode=0:0 NodeList=n1,n2 StdOut=/x"
    program.write_text(f"#!/bin/sh\necho '{line}'\n")
    program.chmod(0o755)
    assert job_state("7") == SlurmJob("RUNNING", None, "", ("n1", "n2"))
    program.write_text(f"#!/bin/sh\necho '{line.replace('RUNNING', 'FAILED').replace('0:0', '1:0')}'\n")
    assert job_state("7").exit_code == 1
