"""A Slurm job with a node in reserve loses one: the run goes on in the same job, bit for bit. Machines of its own."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.cluster.bed import Nodes
from tests.cluster.slurm_bed import SlurmBed
from tests.cluster.slurm_runs import submit
from tests.e2e.conftest import SFT, computed, events, exit_record, weights

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(1200)]
STEPS = 40


def test_a_node_in_reserve_takes_the_place_of_a_lost_one(machines: None, slurm_packages: None, tmp_path: Path) -> None:
    """Also where Slurm itself has seen that the node is down before the run has ended."""
    recipe, survives = SFT[1:], ("recovery.max_restarts=3", "recovery.wait_for_nodes=200", "--slurm", "spare_nodes=1")
    with Nodes(3, tmp_path) as nodes, SlurmBed(nodes, node_down=20) as slurm:
        undisturbed = submit(slurm, tmp_path / "undisturbed", steps=STEPS, recipe=recipe)
        undisturbed.wait()
        run = submit(slurm, tmp_path / "run", *survives, steps=STEPS, recipe=recipe)
        run.until(lambda: events(run.folder, "checkpoint"), "checkpoint")
        assert slurm.job(run.job)["NumNodes"] == "3"
        assert "3 of 3 nodes are here" in run.output
        assert _nodes(run.folder, 1) == {"n1", "n2"}
        lost = time.monotonic()
        next(node for node in nodes if node.name == "n2").kill()
        run.wait()
        assert _nodes(run.folder, 2) == {"n1", "n3"}
        (gone,) = events(run.folder, "nodes_lost")
        assert (gone["nodes"], gone["left_out"]) == (["n2"], [])
        (restart,) = events(run.folder, "restart")
        done = time.monotonic() - lost
        print(f"trained again {restart['seconds']:.0f} s after the loss was seen, the job done {done:.0f} s after it")
        assert restart["from_step"] >= 2
        assert (run.status()["class"], slurm.job(run.job)["ExitCode"]) == ("done", "0:0")
        assert slurm.job(run.job)["Restarts"] == "0"
        assert exit_record(run.folder)["exit_status"] == 0
        assert computed(run.folder) == computed(undisturbed.folder)
        assert weights(run.folder) == weights(undisturbed.folder)
        for node in (nodes[0], nodes[2]):
            run.until(lambda node=node: not slurm.processes(node), f"end of all processes on {node.name}", 90.0)


def test_an_elastic_job_goes_on_with_the_nodes_that_are_left(
    machines: None, slurm_packages: None, tmp_path: Path
) -> None:
    words = ("recovery.max_restarts=3", "recovery.elastic=true", "placement.policy.ranks=4")
    with Nodes(2, tmp_path) as nodes, SlurmBed(nodes) as slurm:
        run = submit(slurm, tmp_path / "run", *words, steps=STEPS, recipe=SFT[1:])
        run.until(lambda: events(run.folder, "checkpoint"), "checkpoint")
        assert _nodes(run.folder, 1) == {"n1", "n2"}
        next(node for node in nodes if node.name == "n2").kill()
        run.wait()
        assert _nodes(run.folder, 2) == {"n1"}
        (said,) = events(run.folder, "replanned")
        assert said["nodes"] == "2 -> 1"
        assert run.steps() == list(range(1, STEPS + 1))
        assert (run.status()["class"], slurm.job(run.job)["Restarts"]) == ("done", "0")


def _nodes(folder: Path, attempt: int) -> set[str]:
    """Where the policy's ranks were."""
    ready = [event for event in events(folder, "group_ready") if event["attempt"] == attempt]
    (policy,) = [event for event in ready if event["role"] == "policy"]
    return {worker["node"] for worker in policy["workers"]}
