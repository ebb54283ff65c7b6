"""What nobody announces: a cable that is cut, and a time limit without a warning. Each on machines of its own."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.cluster.bed import Node, Nodes
from tests.cluster.slurm_bed import SlurmBed
from tests.cluster.slurm_runs import Run, assert_same_metrics, here, sbatch, submit
from tests.cluster.test_job_verbs import state
from tests.e2e.conftest import checkpoints, events

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(900)]
LOST_S = 120.0  # Ray takes a silent node for dead after some 65 s; then everything is torn down
GONE_S = 60.0
LONG = 60  # steps: long enough to be caught in the middle
UNANNOUNCED = "--signal=USR1@0"  # so long before the end: Slurm takes 0 for never


@contextmanager
def two_nodes(folder: Path, **options: int) -> Iterator[SlurmBed]:
    """Two machines with Slurm that no other test uses."""
    with Nodes(2, folder) as nodes, SlurmBed(nodes, **options) as slurm:
        yield slurm


def folders(node: Node) -> list[str]:
    """What a run has left of its temporary folders."""
    return node.run(["bash", "-c", "shopt -s nullglob; echo /tmp/dft-* /tmp/ray*"]).stdout.split()


def ours(slurm: SlurmBed, node: Node) -> list[str]:
    """What runs there for the job, but for Slurm's own step daemons, which wait for an answer of the controller."""
    return [found.command for found in slurm.processes(node) if not found.command.startswith("slurmstepd: ")]


def assert_left_clean(run: Run, node: Node, timeout: float = GONE_S) -> None:
    run.until(lambda: not ours(run.bed, node), f"end of all processes on {node.name}", timeout)
    assert folders(node) == [], node.name


def test_a_node_that_is_cut_off_ends_the_job_and_is_left_clean(
    machines: None, slurm_packages: None, tmp_path: Path
) -> None:
    """The failure names it; Ray is gone on the others, and on the node itself while it is still cut off."""
    with two_nodes(tmp_path) as slurm:
        first, second = slurm.nodes
        run = submit(slurm, tmp_path / "cut", steps=2000)
        run.wait_for_step(1)
        second.link_down()
        cut = time.monotonic()
        launch = run.folder / "launch" / f"{run.job}.0"
        run.until((launch / "status.json").exists, "word of how it ended", LOST_S)
        said = time.monotonic()
        status = run.status()
        assert (status["class"], status["rank"], status["node"]) == ("node", 1, "n2"), status
        assert (status["exit_status"], status["requeue"]) == (1, False)
        run.until(lambda: not folders(first), "end of Ray on n1", GONE_S)
        first_without_ray = time.monotonic()
        assert_left_clean(run, second)
        second_clean = time.monotonic()
        # The batch script waits a minute for a step of which a node says nothing.
        assert_left_clean(run, first, 60 + GONE_S)
        first_clean = time.monotonic()
        print(f"after the cut: {said - cut:.0f} s until it was told, {second_clean - cut:.0f} s until nothing was "
              f"left on the node that was cut off, {first_without_ray - cut:.0f} s until Ray was gone on the other, "
              f"{first_clean - cut:.0f} s until the batch script was")  # fmt: skip
        end = run.output[run.output.rindex("distft: failed") :]
        assert end.startswith(f"distft: failed (node): {status['role']} rank 1 on n2: its node does not answer")
        assert f"log: {run.folder}/logs/{status['role']}-1.log" in end
        second.link_up()
        run.wait("FAILED")
        assert slurm.job(run.job)["ExitCode"] == "1:0"
        run.until(lambda: not any(map(slurm.processes, slurm.nodes)), "end of Slurm's own step daemons", GONE_S)


def test_a_time_limit_without_a_warning_leaves_time_for_a_checkpoint(
    machines: None, slurm_packages: None, tmp_path: Path
) -> None:
    """Slurm's SIGTERM is all there is, and then its KillWait; 30 s unless a site says otherwise."""
    with two_nodes(tmp_path, kill_wait=30) as slurm:
        run = sbatch(slurm, tmp_path / "limit", UNANNOUNCED, "--time=30", steps=LONG)
        run.wait_for_step(2)
        slurm.end_in(run.job, 1)
        run.until((run.folder / "launch" / f"{run.job}.0" / "status.json").exists, "word of how it ended")
        status = run.status(0)
        assert (status["class"], status["exit_status"], status["why_stopped"]) == ("stopped", 75, "terminated"), status
        assert status["requeue"]
        (stop,) = events(run.folder, "stop")
        assert checkpoints(run.folder)[-1] == stop["step"]
        run.until((run.folder / "launch" / f"{run.job}.1").exists, "second start")
        slurm.run(["scontrol", "update", f"JobId={run.job}", "TimeLimit=30"])
        run.wait()
        assert "because Slurm asked for the nodes (SIGTERM)" in run.output
        # Where the second start still had the old limit, it stopped by itself before that: one stop more.
        stops, resumes = ([event["step"] for event in events(run.folder, kind)] for kind in ("stop", "resume"))
        assert resumes == stops, "no step was lost"
        assert_same_metrics(run.folder, here(tmp_path / "undisturbed", steps=LONG))
        for node in slurm.nodes:
            assert_left_clean(run, node)


def test_a_time_limit_without_a_warning_that_finds_a_run_stuck(
    machines: None, slurm_packages: None, tmp_path: Path
) -> None:
    """No checkpoint comes about: the job ends as Slurm says, our word says why, and SIGKILL finds nothing to do."""
    with two_nodes(tmp_path) as slurm:
        run = sbatch(slurm, tmp_path / "stuck", UNANNOUNCED, "--time=30", steps=2000)
        run.wait_for_step(1)
        (ready,) = (event for event in events(run.folder, "group_ready") if event["role"] == "policy")
        slurm.nodes[1].run(["kill", "-STOP", str(ready["workers"][1]["pid"])])
        slurm.end_in(run.job, 1)
        run.wait("TIMEOUT")
        status = run.status()
        assert (status["class"], status["exit_status"], status["why_stopped"]) == ("death", 1, "terminated"), status
        told = state(slurm, run.folder, tmp_path)
        assert (told["state"], told["job"]["said"], told["exit"]["class"]) == ("failed", "TIMEOUT", "death"), told
        assert checkpoints(run.folder) == []
        assert slurm.job(run.job)["Restarts"] == "0"
        assert "the driver has not stopped in the time that Slurm gives, and is killed" in run.output
        assert "the driver was killed by SIGKILL\n  because Slurm asked for the nodes (SIGTERM)" in run.output
        for node in slurm.nodes:
            assert_left_clean(run, node)
