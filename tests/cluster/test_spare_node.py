"""A run over two nodes of a Ray cluster loses one: where a third is there it goes on by itself, bit for bit; else it
stops with its checkpoint, and the same command goes on when a node is there again."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.bed import ROOT, Nodes
from tests.cluster.ray_bed import RayBed
from tests.e2e.conftest import SFT, checkpoints, computed, events, exit_record, lines, ppo, weights

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(1800)]

DEADLINE_S = 400.0
STEPS = 40
CLUSTER = {"name": "spare", "kind": "ray", "nodes": 2, "node": {"cpus": 2, "gpus": 0, "memory_gib": 4.0}}


class Run:
    """``distft train`` on the first node."""

    def __init__(
        self,
        bed: RayBed,
        folder: Path,
        cluster: Path,
        *words: str,
        recipe: Sequence[str] = (*SFT, f"train.steps={STEPS}"),
    ) -> None:
        self.folder = folder
        self._printed = folder.with_suffix(f".{time.monotonic_ns()}.txt")
        train = [sys.executable, "-m", "distft.cli", *recipe, *words, f"output_dir={folder}"]
        environment = bed.env | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
        with self._printed.open("wb") as output:
            self._process = bed.nodes[0].start(
                [*train, "--cluster", cluster], env=environment, cwd=folder.parent, stdout=output,
                stderr=subprocess.STDOUT,
            )  # fmt: skip

    @property
    def output(self) -> str:
        return self._printed.read_text(errors="replace")

    def end(self) -> int:
        return self._process.wait(DEADLINE_S)

    def wait_for(self, condition: Callable[[], Any], what: str) -> None:
        limit = time.monotonic() + DEADLINE_S
        while not condition():
            assert self._process.poll() is None, f"ended before {what}:\n{self.output}"
            assert time.monotonic() < limit, f"no {what}:\n{self.output}"
            time.sleep(0.05)

    def nodes(self, attempt: int) -> list[str]:
        """Where the policy's ranks are."""
        ready = [event for event in events(self.folder, "group_ready") if event["attempt"] == attempt]
        (policy,) = [event for event in ready if event["role"] == "policy"]
        return [worker["node"] for worker in policy["workers"]]


def test_a_spare_takes_the_place_of_a_lost_node(machines: None, tmp_path: Path) -> None:
    cluster = tmp_path / "shared" / "spare.yaml"
    cluster.parent.mkdir()
    cluster.write_text(json.dumps(CLUSTER))
    survives = ("recovery.max_restarts=3", "recovery.wait_for_nodes=200")
    with Nodes(3, tmp_path / "shared") as nodes, RayBed(nodes, cpus=2) as bed:
        by_name = {node.name: node for node in nodes}
        undisturbed = Run(bed, nodes.folder / "undisturbed", cluster)
        assert undisturbed.end() == 0, undisturbed.output
        run = Run(bed, nodes.folder / "run", cluster, *survives)
        run.wait_for(lambda: checkpoints(run.folder), "checkpoint")
        first = run.nodes(1)
        assert first[0] == "n1" != first[1], "one on the driver's node, one on another"
        lost = time.monotonic()
        by_name[first[1]].kill()
        assert run.end() == 0, run.output
        second = run.nodes(2)
        assert {first[1], *second} == {"n1", "n2", "n3"}, "the spare has taken its place"
        (gone,) = events(run.folder, "nodes_lost")
        assert (gone["nodes"], gone["left_out"]) == ([first[1]], [])
        (restart,) = events(run.folder, "restart")
        done = time.monotonic() - lost
        print(f"trained again {restart['seconds']:.0f} s after the loss was seen, done {done:.0f} s after it")
        assert restart["from_step"] >= 2
        assert_same(run.folder, undisturbed.folder)

        alone = Run(bed, nodes.folder / "alone", cluster, "recovery.max_restarts=3", "recovery.wait_for_nodes=30")
        alone.wait_for(lambda: checkpoints(alone.folder), "checkpoint")
        last = by_name[alone.nodes(1)[1]]
        last.kill()
        assert alone.end() == 75, alone.output
        step = checkpoints(alone.folder)[-1]
        assert f"{last.name} does not answer any more, and within 30 s" in alone.output
        assert f"the same command goes on from the checkpoint of step {step}" in alone.output
        assert exit_record(alone.folder)["class"] == "stopped"
        last.boot()
        bed.start_node(last)
        again = Run(bed, nodes.folder / "alone", cluster)
        assert again.end() == 0, again.output
        assert [event["step"] for event in events(alone.folder, "resume")] == [step]
        assert_same(alone.folder, undisturbed.folder)


def test_a_run_goes_on_from_its_last_step_in_the_memory_of_the_nodes_that_are_left(
    machines: None, tmp_path: Path
) -> None:
    """SFT and PPO, before there is any checkpoint: the spare gets the lost node's states from the other one. Where none
    is there they become a checkpoint."""
    cluster = tmp_path / "shared" / "spare.yaml"
    cluster.parent.mkdir()
    cluster.write_text(json.dumps({**CLUSTER, "node": {"cpus": 4, "gpus": 0, "memory_gib": 6.0}}))
    diskless = ("recovery.max_restarts=3", "recovery.wait_for_nodes=200", "checkpoint.memory_every=1")
    with Nodes(3, tmp_path / "shared") as nodes, RayBed(nodes, cpus=4) as bed:
        by_name = {node.name: node for node in nodes}
        sft = (*SFT, "train.steps=12", "placement.policy.ranks=6")
        of_sft = nodes.folder / "sft-undisturbed"
        small = ("train.steps=5", "placement.reference.ranks=1", "placement.reward.ranks=1")
        for name, recipe, least in (("sft", sft, 4), ("ppo", ppo(of_sft, *small), 2)):
            recipe = (*recipe, "checkpoint.every=1000")
            undisturbed = Run(bed, nodes.folder / f"{name}-undisturbed", cluster, recipe=recipe)
            assert undisturbed.end() == 0, undisturbed.output
            run = Run(bed, nodes.folder / name, cluster, *diskless, recipe=recipe)
            run.wait_for(lambda run=run, least=least: len(trained(run.folder)) >= least, f"step {least}")
            gone = next(node for node in run.nodes(1) if node != "n1")
            lost = time.monotonic()
            by_name[gone].kill()
            last = trained(run.folder)[-1]
            run.wait_for(lambda run=run: events(run.folder, "nodes_lost"), "lost node")
            assert not checkpoints(run.folder)
            assert run.end() == 0, run.output
            assert gone not in run.nodes(2)
            (restart,) = events(run.folder, "restart")
            done = time.monotonic() - lost
            print(
                f"{name}: trained again {restart['seconds']:.0f} s after the loss was seen, done {done:.0f} s after it"
            )
            assert restart["from_memory"]
            assert last - 1 <= restart["from_step"] <= last + 1, "the last step, or what it was just then"
            (resumed,) = events(run.folder, "resume")
            assert resumed["path"].startswith("/dev/shm/distft-")
            assert resumed["changed"] == {}
            assert_same(run.folder, undisturbed.folder, len(trained(undisturbed.folder)))
            if name == "sft":
                by_name[gone].boot()
                bed.start_node(by_name[gone])

        words = (*diskless, "checkpoint.every=1000", "recovery.wait_for_nodes=5")
        alone = Run(bed, nodes.folder / "alone", cluster, *words, recipe=sft)
        alone.wait_for(lambda: len(trained(alone.folder)) >= 4, "step 4")
        last = by_name[next(node for node in alone.nodes(1) if node != "n1")]
        last.kill()
        assert alone.end() == 75, alone.output
        (step,) = checkpoints(alone.folder)
        assert f"the copy in memory of step {step} has become a checkpoint" in alone.output
        assert f"the same command goes on from the checkpoint of step {step}" in alone.output
        last.boot()
        bed.start_node(last)
        again = Run(bed, nodes.folder / "alone", cluster, *words, recipe=sft)
        assert again.end() == 0, again.output
        assert [event["step"] for event in events(alone.folder, "resume")] == [step]
        assert_same(alone.folder, of_sft, 12)


def trained(folder: Path) -> list[int]:
    """The steps in the ledger."""
    return [line["step"] for line in lines(folder, "metrics") if line["split"] == "train"]


def test_an_elastic_run_goes_on_with_fewer_ranks_on_the_node_that_is_left(machines: None, tmp_path: Path) -> None:
    """Four ranks on two nodes become as many as the other has room for; the run is the one of four ranks to rounding:
    the same rows, the same losses."""
    cluster = tmp_path / "shared" / "two.yaml"
    cluster.parent.mkdir()
    cluster.write_text(json.dumps(CLUSTER))
    words = ("placement.policy.ranks=4", "train.steps=12")
    with Nodes(2, tmp_path / "shared") as nodes, RayBed(nodes, cpus=2) as bed:
        undisturbed = Run(bed, nodes.folder / "undisturbed", cluster, *words)
        assert undisturbed.end() == 0, undisturbed.output
        run = Run(bed, nodes.folder / "run", cluster, *words, "recovery.max_restarts=3", "recovery.elastic=true")
        run.wait_for(lambda: checkpoints(run.folder), "checkpoint")
        assert sorted(run.nodes(1)) == ["n1", "n1", "n2", "n2"]
        next(node for node in nodes if node.name == "n2").kill()
        assert run.end() == 0, run.output
        left = run.nodes(2)
        assert set(left) == {"n1"}
        assert len(left) < 4
        (said,) = events(run.folder, "replanned")
        assert (said["nodes"], said["ranks"]) == ("2 -> 1", {"policy": f"4 -> {len(left)}"})
        assert json.loads((run.folder / "plan.json").read_text())["hardware"]["nodes"] == 1
        (resumed,) = events(run.folder, "resume")
        assert list(resumed["changed"]) == ["policy"]
        assert f"the run goes on with 1 of 2 nodes: policy 4 -> {len(left)}" in run.output
        (restart,) = events(run.folder, "restart")
        print(f"trained again on {len(left)} ranks {restart['seconds']:.0f} s after the loss was seen")
        for one, other in zip(computed(run.folder), computed(undisturbed.folder), strict=True):
            assert (one.keys(), one.pop("split")) == (other.keys(), other.pop("split"))
            assert one == pytest.approx(other, rel=1e-3, abs=1e-6)


def assert_same(run: Path, undisturbed: Path, steps: int = STEPS) -> None:
    assert trained(run) == list(range(1, steps + 1))
    assert computed(run) == computed(undisturbed)
    assert weights(run) == weights(undisturbed)
