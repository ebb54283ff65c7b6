"""Slurm on the bed's nodes does what a cluster's does: the facts that our launch relies on are measured here."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cluster.bed import ROOT, BedFailed, Nodes
from tests.cluster.slurm_bed import SPARE_PARTITION, URGENT_PARTITION, SlurmBed

pytestmark = pytest.mark.cluster

# A task that says what it hears, and goes on.
LISTEN = """
import os, pathlib, signal, sys, time
log = pathlib.Path(sys.argv[1]) / os.uname().nodename
def heard(number, frame):
    with log.open("a") as file:
        file.write(signal.Signals(number).name + " ")
for number in (signal.SIGUSR1, signal.SIGTERM):
    signal.signal(number, heard)
log.touch()
while True:
    time.sleep(0.1)
"""


def script(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(["#!/bin/bash", *lines, ""]))
    return path


def until(what: Callable[[], bool], timeout: float) -> bool:
    """Whether it becomes true in time."""
    deadline = time.monotonic() + timeout
    while not what() and time.monotonic() < deadline:
        time.sleep(0.1)
    return what()


@pytest.fixture
def folder(shared_folder: Path, request: pytest.FixtureRequest) -> Path:
    """A test's own in the shared one."""
    made: Path = shared_folder / request.node.name
    made.mkdir()
    return made


def listening(slurm: SlurmBed, folder: Path, *options: str) -> str:
    """A job with one task that listens on each of two nodes."""
    (folder / "listen.py").write_text(LISTEN)
    job = slurm.sbatch(
        [
            "-N2",
            f"--output={folder}/out",
            *options,
            script(folder / "job.sh", f"srun python {folder}/listen.py {folder}"),
        ]
    )
    assert until(lambda: (folder / "n1").exists() and (folder / "n2").exists(), 30), slurm.logs()
    return job


def heard(folder: Path) -> dict[str, list[str]]:
    return {name: (folder / name).read_text().split() for name in ("n1", "n2")}


def nothing_left(slurm: SlurmBed) -> bool:
    return all(slurm.processes(node) == [] for node in slurm.nodes)


def test_a_job_with_gpus_on_two_nodes(slurm: SlurmBed, folder: Path) -> None:
    assert sorted(slurm.run(["srun", "-N2", "hostname"]).stdout.split()) == ["n1", "n2"]
    say = "srun bash -c 'echo $SLURM_PROCID $(hostname) $CUDA_VISIBLE_DEVICES'"
    hosts = 'scontrol show hostnames "$SLURM_JOB_NODELIST" | xargs'
    # Slurm's commands work in the node without any variable of this machine's.
    bare = "env -i /usr/bin/squeue --noheader --format=%i"
    job = slurm.sbatch(
        ["-N2", "--gres=gpu:2", f"--output={folder}/out", script(folder / "job.sh", say, hosts, bare, "exit 5")]
    )
    assert slurm.wait(job, timeout=30) == "FAILED"
    assert slurm.job(job)["ExitCode"] == "5:0"
    lines = (folder / "out").read_text().splitlines()
    assert sorted(lines[:2]) == ["0 n1 0,1", "1 n2 0,1"]
    assert lines[2:] == ["n1 n2", job]
    with pytest.raises(BedFailed, match="Requested node configuration is not available"):
        slurm.sbatch(["--gres=gpu:3", "--wrap=true"])


@pytest.mark.slow
def test_a_requeued_job_starts_again_soon(slurm: SlurmBed, folder: Path) -> None:
    lines = [
        'echo "start ${SLURM_RESTART_COUNT:-0}"',
        'if [[ -z ${SLURM_RESTART_COUNT:-} ]]; then scontrol requeue "$SLURM_JOB_ID"; sleep 60; fi',
    ]
    job = slurm.sbatch([f"--output={folder}/out", "--open-mode=append", script(folder / "job.sh", *lines)])
    before = time.monotonic()
    assert slurm.wait(job, timeout=60) == "COMPLETED"
    assert time.monotonic() - before < 40, "without cred_expire it would be some 130 s"
    assert [line for line in (folder / "out").read_text().splitlines() if "start" in line] == ["start 0", "start 1"]
    assert slurm.job(job)["Restarts"] == "1"


def test_a_cancelled_job_leaves_nothing_on_any_node(slurm: SlurmBed, folder: Path) -> None:
    job = slurm.sbatch(
        ["-N2", f"--output={folder}/out", script(folder / "job.sh", "srun bash -c 'touch $(hostname); sleep 1000'")]
    )
    slurm.wait_for(job, "RUNNING", timeout=30)
    assert until(lambda: all(len(slurm.processes(node)) >= 2 for node in slurm.nodes), 20)
    slurm.run(["scancel", job])
    assert slurm.wait(job, timeout=30) == "CANCELLED"
    assert until(lambda: nothing_left(slurm), 20)


def test_the_script_gives_a_command_a_cluster(machines: None, slurm_packages: None, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.cluster", "--nodes=3", f"--folder={tmp_path}"]
    done = subprocess.run(
        [*command, "--", "bash", "-c", "srun -N3 hostname; exit 4"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 4, done.stderr
    assert sorted(done.stdout.split()) == ["n1", "n2", "n3"]


def test_an_odd_name_does_not_hide_a_jobs_state(slurm: SlurmBed) -> None:
    job = slurm.sbatch(["--job-name=a JobState=FAILED b", "--array=1-2", "--output=/dev/null", "--wrap=true"])
    assert slurm.wait(job, timeout=30) == "COMPLETED"


@pytest.mark.slow
def test_what_daemonises_outlives_its_job_but_not_the_bed(machines: None, slurm_packages: None, tmp_path: Path) -> None:
    """With proctrack/linuxproc: whoever leaves daemons behind (Ray does) has to end them."""
    with Nodes(1, tmp_path) as nodes:
        with SlurmBed(nodes) as slurm:
            job = slurm.sbatch(["--wrap=srun bash -c 'setsid nohup sleep 1000 >/dev/null 2>&1 & sleep 1'"])
            assert slurm.wait(job, timeout=30) == "COMPLETED"
            assert [process.command for process in slurm.processes(nodes[0])] == ["sleep 1000"]
        assert nodes[0].processes() == []


@pytest.mark.slow
def test_scancel_with_a_signal_reaches_the_tasks_of_all_nodes(slurm: SlurmBed, folder: Path) -> None:
    job = listening(slurm, folder)
    slurm.run(["scancel", "--signal=USR1", job])
    assert until(lambda: heard(folder) == {"n1": ["SIGUSR1"], "n2": ["SIGUSR1"]}, 10), heard(folder)
    assert slurm.state(job) == "RUNNING"
    slurm.run(["scancel", job])
    assert slurm.wait(job, timeout=40) == "CANCELLED"
    assert heard(folder) == {"n1": ["SIGUSR1", "SIGTERM"], "n2": ["SIGUSR1", "SIGTERM"]}
    assert slurm.job(job)["Reason"] == "None"
    # The trap: a cancelled job can be requeued. Nobody may do that who has not asked why the job was ended.
    slurm.run(["scontrol", "requeue", job])
    assert slurm.wait_for(job, "PENDING", timeout=30) == "PENDING"
    slurm.run(["scancel", job])


@pytest.mark.slow
def test_a_time_limit_warns_and_then_ends_the_job(slurm: SlurmBed, folder: Path) -> None:
    job = listening(slurm, folder, "--time=30", "--signal=USR1@20")
    slurm.end_in(job, 25)
    assert slurm.wait(job, timeout=110) == "TIMEOUT"
    assert slurm.job(job)["Reason"] == "TimeLimit"
    for name, signals in heard(folder).items():
        assert signals[0] == "SIGUSR1", f"{name} heard {signals}"
        assert set(signals[1:]) == {"SIGTERM"}, f"{name} heard {signals}"
    assert until(lambda: nothing_left(slurm), 20)


@pytest.mark.slow
def test_an_urgent_job_makes_slurm_requeue_another(slurm: SlurmBed, folder: Path) -> None:
    job = listening(slurm, folder, f"--partition={SPARE_PARTITION}", "--exclusive")
    urgent = slurm.sbatch(
        ["-N2", "--exclusive", f"--partition={URGENT_PARTITION}", f"--output={folder}/urgent", "--wrap=hostname"]
    )
    assert until(lambda: all(signals == ["SIGTERM"] for signals in heard(folder).values()), 15), heard(folder)
    assert slurm.state(job) == "RUNNING", "there is a grace"
    assert slurm.wait(urgent, timeout=80) == "COMPLETED"
    assert slurm.job(job)["Restarts"] == "1"
    slurm.run(["scancel", job])
    slurm.wait(job, timeout=30)


@pytest.mark.slow
def test_a_node_that_is_off_is_found_and_comes_back(machines: None, slurm_packages: None, tmp_path: Path) -> None:
    with Nodes(2, tmp_path) as nodes, SlurmBed(nodes, node_down=10) as slurm:
        job = slurm.sbatch(["-N2", "--no-requeue", f"--output={tmp_path}/out", "--wrap=srun sleep 1000"])
        assert until(lambda: any(p.command.endswith("/sleep 1000") for p in slurm.processes(nodes[1])), 30)
        nodes[1].kill()
        assert slurm.wait(job, timeout=90) == "NODE_FAIL"
        assert "srun: error: Node failure on n2" in (tmp_path / "out").read_text()
        assert until(lambda: slurm.processes(nodes[0]) == [], 30)
        nodes[1].boot()
        slurm.start_slurmd(nodes[1])
        assert sorted(slurm.run(["srun", "-N2", "hostname"]).stdout.split()) == ["n1", "n2"]
