"""All the ways in which a job on two machines comes to its end, for real."""

from __future__ import annotations

import http.client
import json
import re
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml

from distft.tracking.jobs import read_jobs
from tests.cluster.bed import ROOT, Node
from tests.cluster.slurm_bed import SHORT_PARTITION, SPARE_PARTITION, URGENT_PARTITION, SlurmBed
from tests.cluster.slurm_runs import (
    JOB_S,
    PPO,
    ROLES,
    SCRIPT,
    STEPS,
    Run,
    assert_same_metrics,
    here,
    sbatch,
    submit,
    submitting,
)
from tests.e2e.conftest import TINY, checkpoints, events

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(1200)]
LONG = 60  # steps: long enough to be caught in the middle
TWIN = 40
GONE_S = 30.0


@pytest.fixture(scope="module")
def reference(shared_folder: Path) -> Path:
    """The long run on one machine that nobody disturbs."""
    return here(shared_folder / "one-machine-long", steps=LONG)


@pytest.fixture(autouse=True)
def nothing_is_left(slurm: SlurmBed) -> Iterator[None]:
    """After every test, however its job ended."""
    yield
    slurm.run(["scancel", "--user=root"])  # a test that failed has left its job
    assert_nothing_left(slurm)


def assert_nothing_left(slurm: SlurmBed) -> None:
    """No process and no private folder on any node."""
    limit = time.monotonic() + GONE_S
    while left := {node.name: slurm.processes(node) for node in slurm.nodes if slurm.processes(node)}:
        assert time.monotonic() < limit, left
        time.sleep(0.2)
    for node in slurm.nodes:
        folders = node.run(["bash", "-c", "shopt -s nullglob; echo /tmp/dft-* /tmp/ray*"]).stdout.split()
        assert folders == [], node.name


def ended_well(run: Run, reference: Path) -> None:
    run.wait()
    assert_same_metrics(run.folder, reference)


def test_plain_sbatch(slurm: SlurmBed, shared_folder: Path) -> None:
    """No cluster file: the run takes what the job has, over both nodes, and is as on one machine."""
    run = sbatch(slurm, shared_folder / "plain")
    run.wait()
    nodes = {role: {worker["node"] for worker in event["workers"]}
             for event in events(run.folder, "group_ready") if (role := event["role"]) in ROLES}  # fmt: skip
    assert set().union(*nodes.values()) == {"n1", "n2"}
    assert_same_metrics(run.folder, here(shared_folder / "plain-one-machine"))
    assert (shared_folder / f"slurm-{run.job}.out").read_text().rstrip().endswith(f"done; the run is in {run.folder}")


def test_the_time_limit(slurm: SlurmBed, shared_folder: Path, reference: Path) -> None:
    """Slurm announces it; checkpoint, requeue, and nothing is lost."""
    run = submit(slurm, shared_folder / "limit", steps=LONG)
    run.wait_for_step(2)
    slurm.end_in(run.job, 40)
    run.until(lambda: (run.folder / "launch" / f"{run.job}.1").exists(), "second start")
    slurm.run(["scontrol", "update", f"JobId={run.job}", "TimeLimit=30"])
    assert run.status(0)["why_stopped"] == "usr1"
    ended_well(run, reference)
    assert slurm.job(run.job)["Restarts"] == "1"


def test_it_stops_by_itself_before_its_time_is_over(slurm: SlurmBed, shared_folder: Path) -> None:
    """With no announcement but the time that Slurm says is left."""
    options = (f"--partition={SHORT_PARTITION}", "--time=2", "--signal=B:USR1@1")
    run = sbatch(slurm, shared_folder / "by itself", *options, steps=2000)
    run.until(lambda: events(run.folder, "stop"), "stop")
    (stop,) = events(run.folder, "stop")
    assert "of the job's time are left" in stop["cause"]
    run.until(lambda: (run.folder / "launch" / f"{run.job}.0" / "status.json").exists(), "word of how it ended")
    assert (run.status(0)["why_stopped"], run.status(0)["requeue"]) == ("time", True)
    assert checkpoints(run.folder)[-1] == stop["step"]
    run.until(lambda: slurm.job(run.job)["Restarts"] == "1", "requeue")
    slurm.run(["scancel", run.job])
    run.wait("CANCELLED")


def test_preemption(slurm: SlurmBed, shared_folder: Path, reference: Path) -> None:
    """A job that must make room writes a checkpoint in its grace, and goes on when there is room again."""
    run = submit_spare(slurm, shared_folder / "preempted")
    run.wait_for_step(2)
    urgent = slurm.sbatch(
        [f"--partition={URGENT_PARTITION}", "-N2", "--exclusive", "--wrap=sleep 1", "--output=/dev/null"]
    )
    run.until(lambda: (run.folder / "launch" / f"{run.job}.0" / "status.json").exists(), "word of how it ended")
    assert (run.status(0)["why_stopped"], run.status(0)["exit_status"]) == ("terminated", 75)
    assert slurm.wait(urgent, 60) == "COMPLETED"
    ended_well(run, reference)


def submit_spare(slurm: SlurmBed, folder: Path) -> Run:
    return sbatch(slurm, folder, f"--partition={SPARE_PARTITION}", steps=LONG)


def test_scancel_leaves_nothing_and_is_final(slurm: SlurmBed, shared_folder: Path) -> None:
    run = submit(slurm, shared_folder / "cancelled", steps=2000)
    run.wait_for_step(2)
    slurm.run(["scancel", run.job])
    run.wait("CANCELLED")
    time.sleep(3)
    assert slurm.state(run.job) == "CANCELLED", "nobody has revived it"


def test_a_killed_rank_ends_the_job_with_its_last_lines(slurm: SlurmBed, shared_folder: Path) -> None:
    run = submit(slurm, shared_folder / "killed", "recovery.max_restarts=0", steps=2000)
    run.wait_for_step(1)
    (ready,) = (event for event in events(run.folder, "group_ready") if event["role"] == "policy")
    victim = ready["workers"][1]
    assert victim["node"] == "n2"
    killed = time.monotonic()
    slurm.nodes[1].run(["kill", "-KILL", str(victim["pid"])])
    run.wait("FAILED")
    print(f"the job has ended {time.monotonic() - killed:.1f} s after its rank was killed")
    assert slurm.job(run.job)["ExitCode"] == "1:0"
    status = run.status()
    assert (status["role"], status["rank"], status["node"]) == ("policy", 1, "n2")
    end = run.output[run.output.rindex("distft: failed") :]
    assert end.startswith("distft: failed (death): policy rank 1 on n2: ")
    assert f"log: {run.folder}/logs/policy-1.log" in end
    last = (run.folder / "logs" / "policy-1.log").read_text(errors="replace").splitlines()[-1]
    assert last in end
    assert end.rstrip().splitlines()[-1].startswith("  exit status 1; all logs: ")
    for number in (0, 1):
        kept = {path.name for path in (run.folder / "logs" / "ray" / f"node-{number}").iterdir()}
        assert {"ray.out", "raylet.out"} <= kept


def test_a_killed_launcher_leaves_nothing(slurm: SlurmBed, shared_folder: Path) -> None:
    """The kernel and the guard end what its node runs; the rest of the job follows."""
    run = submit(slurm, shared_folder / "no launcher", steps=2000)
    run.wait_for_step(1)
    slurm.nodes[1].run(["pkill", "-KILL", "-f", "[-]m distft.launch.node"])
    run.wait("FAILED")
    assert_nothing_left(slurm)


def hanging(folder: Path, node: str) -> Path:
    """Stands before Python, and on one node never comes to it."""
    script = folder / "hang.sh"
    script.write_text(f'#!/bin/bash\n[[ $SLURMD_NODENAME == {node} ]] && exec sleep 3600\nexec "$@"\n')
    script.chmod(0o755)
    return script


def test_a_node_that_never_comes_up_is_named(slurm: SlurmBed, shared_folder: Path) -> None:
    folder = shared_folder / "silent node"
    words = ["recovery.start_deadline_s=25"]
    script = hanging(shared_folder, "n2")
    job = slurm.sbatch(
        [f"--chdir={shared_folder}", SCRIPT, "--within", script, "--python", "python", "--run-dir", folder, *PPO,
         f"output_dir={folder}", *words]
    )  # fmt: skip
    run, started = Run(slurm, job, folder), time.monotonic()
    run.wait("FAILED", 180)
    assert time.monotonic() - started < 120
    assert slurm.job(job)["ExitCode"] == "3:0"
    assert "1 of 2 nodes are here, waiting for: n2" in run.output
    assert "nodes: n2 did not come up within 25 s; nothing was heard of n2" in run.output


def test_train_inside_an_allocation(slurm: SlurmBed, shared_folder: Path) -> None:
    """The verb for "here", where here is what salloc gave."""
    folder = shared_folder / "allocation"
    train = [sys.executable, "-m", "distft.cli", "train", *PPO, f"train.steps={STEPS}", f"output_dir={folder}"]
    ask = ["salloc", "-N2", "--ntasks-per-node=1", "-c2", "--mem=8G"]
    done = slurm.run(
        [*ask, *train, "--cluster", "slurm-cpu"], env={"PYTHONPATH": str(ROOT)}, cwd=shared_folder, timeout=JOB_S,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.rstrip().endswith(f"distft: done; the run is in {folder}")
    assert read_jobs(folder) == [], "the allocation is the person's, not the run's"
    ready = {event["role"]: event["workers"] for event in events(folder, "group_ready")}
    for role in ROLES:
        assert [worker["node"] for worker in ready[role]] == ["n1", "n2"], role


def test_an_array_and_a_job_that_waits_for_it(slurm: SlurmBed, shared_folder: Path) -> None:
    """Each task has its own run; the next job starts from a model that is still to be made when it is submitted."""
    small = [*TINY, "train.steps=3", "train.global_batch_size=8", "evaluation.max_samples=8", "data.train.0.limit=64"]
    short = ["optimizer.warmup_steps=0"]
    task, folder = shared_folder / "sft-{task}", shared_folder / "dpo"
    words = ["sft-tiny", *small, *short, "seed={task}", f"output_dir={task}", "--array", "1-2"]
    first = submitting(slurm, task, *words)
    assert first.returncode == 0, first.stderr
    runs = {number: shared_folder / f"sft-{number}" for number in (1, 2)}
    for number, run in runs.items():
        assert [record.job_id for record in read_jobs(run)] == [f"{first.stdout.strip()}_{number}"]
    words = ["dpo-tiny", f"models.policy.path=run:{runs[1]}", "train.steps=3", "train.global_batch_size=8", *short]
    second = submitting(slurm, folder, *words, f"output_dir={folder}", "--after", first.stdout.strip())
    assert second.returncode == 0, second.stderr
    waiting = Run(slurm, second.stdout.strip(), folder)
    assert slurm.job(waiting.job)["Dependency"].startswith("afterok:")
    waiting.wait()
    assert (folder / "final" / "config.json").is_file()
    seeds = {yaml.safe_load((run / "recipe.yaml").read_text())["seed"] for run in runs.values()}
    assert seeds == {1, 2}
    for number, run in runs.items():
        assert (run / "logs" / f"slurm-{first.stdout.strip()}_{number}.out").is_file()


def test_two_jobs_at_once_do_not_meet(slurm: SlurmBed, shared_folder: Path) -> None:
    """On the same nodes, of the same user: ports, tokens, folders; and neither answers the other or a stranger."""
    half = shared_folder / "half a node.yaml"  # so that both have room at once
    node = {"cpus": 2, "ranks_per_cpu": 4, "gpus": 0, "memory_gib": 7.5}
    half.write_text(json.dumps({"name": "half", "kind": "slurm", "nodes": 2, "node": node}))
    runs = [submit(slurm, shared_folder / f"twin-{number}", steps=TWIN, cluster=str(half)) for number in (1, 2)]
    for run in runs:
        run.wait_for_step()
    launches = [run.folder / "launch" / f"{run.job}.0" for run in runs]
    heads = [(launch / "head.json").read_text() for launch in launches]
    tokens = [(launch / "token").read_text() for launch in launches]
    assert [(launch / "token").stat().st_mode & 0o777 for launch in launches] == [0o600, 0o600]
    assert len({*heads}) == len({*tokens}) == 2
    answers = [_answers(node) for node in slurm.nodes]
    for said in answers:
        assert 401 in said.values(), "an agent of ours was asked"
        assert [port for port, status in said.items() if 200 <= status < 300] == []
    for run in runs:
        run.wait()
    one = here(shared_folder / "no twin", steps=TWIN)
    for run in runs:
        ready = events(run.folder, "group_ready")
        assert {worker["node"] for event in ready for worker in event["workers"]} == {"n1", "n2"}
        assert_same_metrics(run.folder, one)


def _answers(node: Node) -> dict[int, int]:
    """By port of the node's address, the status with which a stranger's job is answered, where HTTP is spoken."""
    listening = node.run(["ss", "--listening", "--tcp", "--numeric", "--no-header"]).stdout
    ports = sorted({int(found[1]) for line in listening.splitlines() if (found := re.search(r":(\d+)\s", line))})
    with ThreadPoolExecutor(16) as pool:  # a port that speaks something else answers nothing for as long as one waits
        said = pool.map(lambda port: _answer(node.ip, port), ports)
    return {port: status for port, status in zip(ports, said, strict=True) if status is not None}


def _answer(host: str, port: int) -> int | None:
    connection = http.client.HTTPConnection(host, port, timeout=3)
    try:
        connection.request("POST", "/api/job_agent/jobs/", body=b"{}", headers={"Content-Type": "application/json"})
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()
