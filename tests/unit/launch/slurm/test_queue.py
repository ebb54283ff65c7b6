"""What Slurm says of jobs, read from what its commands print (the real ones answer in tests/cluster)."""

from __future__ import annotations

from pathlib import Path

import pytest

from distft.launch.slurm.checks import SlurmRefused
from distft.launch.slurm.queue import (
    JobForgotten,
    SlurmJob,
    _exit_code,
    active_jobs,
    job_state,
    login_environment,
)

LINE = "JobId=7 JobName=a b State=no JobState=RUNNING Reason=None ExitCode=0:0 NodeList=n1,n2 StdOut=/x"


@pytest.fixture(autouse=True)
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path


def say(folder: Path, name: str, *lines: str, error: str = "", status: int = 0) -> None:
    said = "".join(f"echo '{line}'\n" for line in lines) + (f"echo '{error}' >&2\n" if error else "")
    (folder / name).write_text(f"#!/bin/sh\n{said}exit {1 if error else status}\n")
    (folder / name).chmod(0o755)


def test_an_allocation_around_it_gives_no_options() -> None:
    there = {"SLURM_CONF": "/c", "SLURM_JOB_ID": "1", "SLURM_MEM_PER_NODE": "5", "SBATCH_ACCOUNT": "a", "PATH": "/p"}
    assert login_environment(there) == {"SLURM_CONF": "/c", "SBATCH_ACCOUNT": "a", "PATH": "/p"}


@pytest.mark.parametrize(("text", "code"), [("0:0", 0), ("75:0", 75), ("0:9", 137), ("", None), ("x", None)])
def test_exit_codes_as_a_shell_counts_them(text: str, code: int | None) -> None:
    assert _exit_code(text) == code


def test_a_job_that_runs_and_one_that_failed(commands: Path) -> None:
    say(commands, "scontrol", LINE)
    assert job_state("7") == SlurmJob("RUNNING", None, "", ("n1", "n2"))
    say(commands, "scontrol", LINE.replace("RUNNING", "FAILED").replace("0:0", "1:0"))
    assert job_state("7").exit_code == 1


def test_of_an_array_the_task_that_counts(commands: Path) -> None:
    waiting, done = LINE.replace("RUNNING", "PENDING"), LINE.replace("RUNNING", "COMPLETED")
    say(commands, "scontrol", waiting, done, LINE)
    assert job_state("7").state == "RUNNING"
    say(commands, "scontrol", done, waiting)
    assert job_state("7").state == "PENDING"


def test_forgotten_is_not_the_same_as_silent(commands: Path) -> None:
    say(commands, "scontrol", error="slurm_load_jobs error: Invalid job id specified")
    with pytest.raises(JobForgotten, match="does not know job 7"):
        job_state("7")
    say(commands, "scontrol", "Job 7_2 not found", status=1)
    with pytest.raises(JobForgotten):
        job_state("7_2")
    say(commands, "scontrol", error="slurm_load_jobs error: Unable to contact slurm controller (connect failure)")
    with pytest.raises(SlurmRefused, match="Unable to contact"):
        job_state("7")


def test_many_jobs_in_one_question(commands: Path) -> None:
    say(
        commands,
        "squeue",
        "12_1|PENDING|Resources|",
        "12_0|RUNNING|None|n1",
        "13|PENDING|Dependency|",
        "120|RUNNING|None|n2",
    )
    assert active_jobs(["12", "13", "14", "12_1"]) == {
        "12": SlurmJob("RUNNING", None, "", ("n1",)), "13": SlurmJob("PENDING", None, "Dependency"),
        "12_1": SlurmJob("PENDING", None, "Resources"),
    }  # fmt: skip
    say(commands, "squeue", error="slurm_load_jobs error: Invalid job id specified")
    assert active_jobs(["14"]) == {}
    assert active_jobs([]) == {}
