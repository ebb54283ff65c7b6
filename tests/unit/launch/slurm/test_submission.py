"""Submitting, as far as it goes without Slurm; the rest is in tests/cluster."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from distft.common.errors import EnvironmentFallsShort, UserError
from distft.config.load import load_recipe
from distft.launch.slurm.array_tasks import of_task
from distft.launch.slurm.queue import cancel_job, job_state
from distft.launch.slurm.submission import Submission, Wish, prepare, submit
from distft.tracking.jobs import JobRecord, add_job


@pytest.fixture(autouse=True)
def _no_slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")


def dry_run(
    *overrides: str, cluster: str = "slurm-cpu", array: str | None = None, after: tuple[str, ...] = (),
    sweep: tuple[str, ...] = (),
) -> Submission:  # fmt: skip
    return prepare(Wish("sft-tiny", overrides, cluster, after, array, sweep))


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
        submit(dry_run())
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


def test_a_dry_run_needs_neither_secrets_nor_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which it does not use; submitting does."""
    path = cluster_file(tmp_path, environment={"MY_TOKEN": None})
    monkeypatch.setattr("distft.launch.preflight.checks.shutil.disk_usage", lambda _: SimpleNamespace(free=1000))
    prepared = dry_run(cluster=path)
    assert prepared.shell.count(" && cp -- ") == 1, "the cluster file as it is now"
    with pytest.raises(UserError, match="MY_TOKEN is to be passed on, but is not set here"):
        submit(prepared)
    monkeypatch.setenv("MY_TOKEN", "a-secret-value")
    with pytest.raises(EnvironmentFallsShort, match="checkpoint.keep"):
        submit(dry_run(cluster=path))
    assert "a-secret-value" not in dry_run(cluster=path).shell


def test_only_the_allowed_variables_travel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By their names; what is in them is in no command line, and what is not allowed is not in Slurm's files."""
    path = cluster_file(tmp_path, environment={"MY_TOKEN": None, "SITE": "x"})
    for name in ("MY_TOKEN", "OPENAI_API_KEY", "NCCL_DEBUG", "HF_HOME", "MODULEPATH", "PIP_INDEX_URL"):
        monkeypatch.setenv(name, "a-value")
    monkeypatch.setenv("https_proxy", "http://me:password@proxy:3128")
    prepared = dry_run(cluster=path)
    (export,) = (word for word in prepared.command if word.startswith("--export="))
    names = export.removeprefix("--export=").split(",")
    assert {"MY_TOKEN", "NCCL_DEBUG", "HF_HOME", "PATH", "MODULEPATH"} <= set(names)
    assert not {"ALL", "OPENAI_API_KEY", "PIP_INDEX_URL", "SITE", "https_proxy"} & set(names)
    assert "a-value" not in prepared.shell
    assert any("https_proxy has a password in it" in text for text in prepared.warnings)


def test_a_sweep_has_a_run_folder_a_task_and_every_task_is_checked(tmp_path: Path) -> None:
    found = dry_run("train.steps=30", sweep=("seed=1,2", "optimizer.name=adamw,adamw"))
    assert [path.name for path in found.run_dirs] == [f"sft-tiny-{task}" for task in range(4)]
    assert "--array=0-3" in found.command
    words = found.command[found.command.index("sft-tiny") :]
    assert words == ("sft-tiny", "--cluster", "slurm-cpu", "--sweep", "seed=1,2", "--sweep",
                     "optimizer.name=adamw,adamw", "train.steps=30", "output_dir=runs/sft-tiny-{task}")  # fmt: skip
    assert load_recipe("sft-tiny", of_task(found.asked.overrides, found.asked.sweep, 3)).seed == 2
    assert [path.name for path in dry_run("output_dir=x/r{task}", sweep=("seed=1,2",)).run_dirs] == ["r0", "r1"]
    with pytest.raises(UserError, match="train.steps"):
        dry_run(sweep=("train.steps=30,many",))
    assert list((tmp_path / "work").iterdir()) == []


def test_an_array_has_a_run_folder_a_task(tmp_path: Path) -> None:
    found = dry_run("seed={task}", "output_dir=x-{task}", array="3-4")
    assert [path.name for path in found.run_dirs] == ["x-3", "x-4"]
    assert found.command[-2:] == ("seed={task}", "output_dir=x-{task}")


def test_a_job_that_waits_may_start_from_what_is_still_to_be_made() -> None:
    words = ("models.policy.path=run:runs/not-yet",)
    with pytest.raises(UserError, match="does not exist"):
        dry_run(*words)
    assert "--dependency=afterok:7" in dry_run(*words, after=("7",)).command


def test_a_job_that_was_submitted_meanwhile_is_seen(tmp_path: Path) -> None:
    """Two people at once: the second is told before anything is submitted."""
    prepared = dry_run()
    for name, text in (("sinfo", "main*|up|infinite|2|8|16000|(null)"), ("sbatch", "17")):
        (tmp_path / "bin" / name).write_text(f"#!/bin/sh\necho '{text}'\n")
        (tmp_path / "bin" / name).chmod(0o755)
    add_job(prepared.run_dirs[0], JobRecord("slurm", "16", "slurm-cpu"))
    with pytest.raises(UserError, match="slurm job 16 was submitted for this run just now"):
        submit(prepared)
    assert submit(dry_run()).job_id == "17"
