"""Two nodes (raylets) on one machine: who lies where, and what the loss of one looks like."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray

from distft.checkpoint.layout import checkpoints_folder, step_name
from distft.checkpoint.lease import acquire
from distft.clients.asking import ask
from distft.common.errors import RunFailed, StoppedOnRequest
from distft.common.waiting import wait_until
from distft.config.cluster import Cluster as ClusterFile
from distft.config.cluster import load_cluster
from distft.config.load import load_recipe
from distft.config.recipe import Recipe
from distft.groups.handles import together
from distft.groups.placement import Groups, shortage
from distft.launch.on_ray.cluster import Cluster, connect
from distft.launch.on_ray.losses import Losses
from distft.launch.on_ray.nodes import other_nodes
from distft.launch.prepare import Prepared
from distft.launch.supervise import Supervisor
from distft.planning.machine import Machine
from distft.planning.plan import Plan, make_plan
from distft.tracking.tracker import Tracker
from tests.cluster import bed
from tests.ray.conftest import LOOPBACK_STAYS, start, toy
from tests.ray.toy_worker import ToyWorker

pytestmark = pytest.mark.ray
SPECS = (
    toy("policy", 3, cpus_per_rank=2, node_of_rank=(1, 0, 1)), toy("value", 2, cpus_per_rank=1, node_of_rank=(0, 1)),
)  # fmt: skip
START = f"{LOOPBACK_STAYS}from ray.scripts.scripts import main\nmain()"


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Of one node, which others may join."""
    with connect(num_cpus=4, object_store_bytes=128 * 2**20) as connected:
        yield connected


@pytest.fixture(scope="module")
def second_node(cluster: Cluster) -> Iterator[psutil.Process]:
    """The raylet of a second one."""
    with joined(cluster) as process:
        yield raylet_of(process)


@contextmanager
def joined(cluster: Cluster, name: str = "", *options: str) -> Iterator[subprocess.Popen[bytes]]:
    """A node more, in the block, that takes this for the name of its machine."""
    named = ["unshare", "--uts", "sh", "-c", f'hostname {name} && exec "$@"', "sh"] if name else []
    process = join(cluster, named, options)
    try:
        yield process
    finally:
        for child in (children := psutil.Process(process.pid).children(recursive=True)):
            child.kill()
        process.kill()
        process.wait()
        psutil.wait_procs(children, timeout=10)


def join(cluster: Cluster, within: Sequence[str], more: Sequence[str]) -> subprocess.Popen[bytes]:
    before = {node["NodeID"] for node in ray.nodes()}
    options = ["--block", f"--address={cluster.address}", "--node-ip-address=127.0.0.1", "--num-cpus=8", *more]
    process = subprocess.Popen(
        [*within, sys.executable, "-c", START, "start", *options, "--object-store-memory=100000000"],
        env=dict(os.environ),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    until = time.monotonic() + 60
    while not [node for node in ray.nodes() if node["Alive"] and node["NodeID"] not in before]:
        assert time.monotonic() < until, "the node has not joined"
        assert process.poll() is None, "the node did not start"
        time.sleep(0.2)
    return process


def raylet_of(process: subprocess.Popen[bytes]) -> psutil.Process:
    return next(child for child in psutil.Process(process.pid).children() if child.name() == "raylet")


@pytest.fixture(scope="module")
def groups(second_node: psutil.Process, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Groups]:
    """Node 1 needs more CPUs than the driver's node has, so node 0 is the driver's."""
    started = start(tmp_path_factory.mktemp("run"), *SPECS)
    yield started
    started.shutdown(kill=True)


def test_ranks_lie_on_the_nodes_of_their_numbers(groups: Groups) -> None:
    assert [worker.node_id == here() for worker in groups.workers["value"]] == [True, False]
    facts = ask(groups["policy"], ToyWorker.facts).result().reports
    by_node = [worker.node_id == here() for worker in groups.workers["policy"]]
    assert by_node == [True, False, False], "ranks follow their nodes"
    assert shortage(SPECS, {"elsewhere"}) == ""
    assert "the groups ask for" in shortage(SPECS, {socket.gethostname()}), "the name of both"
    assert [fact["local_rank"] for fact in facts] == [0, 0, 1]


def test_a_lost_node_is_seen_while_a_call_waits(groups: Groups, second_node: psutil.Process, cluster: Cluster) -> None:
    nodes, losses = other_nodes(), Losses(cluster)
    assert not losses.look()
    started = time.monotonic()
    second_node.kill()
    with pytest.raises(RunFailed) as caught:
        together(ask(groups["policy"], ToyWorker.linger, [0], 60), ask(groups["value"], ToyWorker.linger, [0], 60))
    seen = time.monotonic() - started
    print(f"lost node seen after {seen:.2f} s: {caught.value}")
    assert seen < 30, "they linger for a minute"
    lost = {("policy", 1), ("policy", 2), ("value", 1)}
    assert (caught.value.role, caught.value.rank) in lost
    assert caught.value.kind in ("node", "death")
    assert Path(caught.value.log).exists()
    assert losses.look(), "whatever was seen of it: there is no restart without it"
    assert losses.lost == list(nodes.values())
    started = time.monotonic()
    groups.shutdown(kill=True)
    assert time.monotonic() - started < 45


def after_a_loss(cluster: Cluster, run_dir: Path, override: str) -> tuple[Recipe, Plan, Losses]:
    """A run of 64 ranks, planned for more than is here, that has lost a node."""
    size = ["placement.policy.ranks=64", "train.global_batch_size=64"]
    recipe = load_recipe("sft-tiny", [*size, override, f"output_dir={run_dir}"])
    losses = Losses(cluster)
    losses.lost = ["n2"]
    machine = Machine(cpus=64, memory_gib=256.0)
    return recipe, make_plan(recipe, load_cluster("local"), machine=machine), losses


def test_a_run_that_is_asked_to_stop_while_it_waits_for_a_node_has_stopped(cluster: Cluster, tmp_path: Path) -> None:
    recipe, too_large, losses = after_a_loss(cluster, tmp_path, "recovery.wait_for_nodes=604800")
    with acquire(tmp_path) as lease:
        run = Supervisor(Prepared(recipe, load_cluster("local"), too_large, tmp_path), lease, 1, quiet=True)
        run._stop.set()
        with Tracker(tmp_path, attempt=1, resume_step=None, total_steps=None) as tracker:
            for goes_on in ("the beginning", "the checkpoint of step 4"):
                with pytest.raises(StoppedOnRequest) as caught:
                    run._wait_for_nodes(losses, tracker)
                assert str(caught.value) == f"stopped while n2 was waited for: the same command goes on from {goes_on}"
                (checkpoints_folder(tmp_path) / step_name(4)).mkdir(parents=True, exist_ok=True)


def test_a_run_goes_on_with_fewer_ranks_or_stops_where_no_plan_fits(cluster: Cluster, tmp_path: Path) -> None:
    """Planned for two nodes of 64 ranks, of which none is there: this one has four cores."""
    recipe, too_large, losses = after_a_loss(cluster, tmp_path, "recovery.elastic=true")
    (checkpoints_folder(tmp_path) / step_name(4)).mkdir(parents=True)

    def waited(cpus: int) -> Supervisor:
        on = ClusterFile.model_validate({"name": "two", "kind": "ray", "nodes": 2, "node": {"cpus": cpus, "gpus": 0}})
        run = Supervisor(Prepared(recipe, on, too_large, tmp_path), lease, 1, quiet=True)
        assert run._wait_for_nodes(losses, tracker) is None
        return run

    with acquire(tmp_path) as lease, Tracker(tmp_path, attempt=1, resume_step=None, total_steps=None) as tracker:
        with pytest.raises(StoppedOnRequest) as caught:
            waited(cpus=64)
        told = str(caught.value)
        assert told.startswith(
            "n2 does not answer any more, and within 0 s (recovery.wait_for_nodes) the groups ask for"
        )
        assert (
            "nor is there a plan for fewer nodes (recovery.elastic): the cluster file says cpus: 64, there are 4"
            in told
        )
        assert told.endswith("the same command goes on from the checkpoint of step 4")
        run = waited(cpus=4)
    ranks = run._plan.groups["policy"].num_ranks
    assert 1 <= ranks <= 4
    assert run._recipe.placement.policy.ranks == "auto"
    assert Plan.model_validate_json((tmp_path / "plan.json").read_bytes()) == run._plan
    (said,) = [event for event in events(tmp_path) if event["event"] == "replanned"]
    assert said["ranks"] == {"policy": f"64 -> {ranks}"}


def events(run_dir: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run_dir / "events.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_a_node_lost_twice_gets_no_rank_and_holds_nobody_up(cluster: Cluster, tmp_path: Path) -> None:
    if reason := bed.why_not():
        pytest.skip(f"a node cannot have a name of its own: {reason}")
    with joined(cluster, "n3"):
        losses = Losses(cluster)
        for _ in range(2):
            with joined(cluster, "n2") as second:
                assert losses.wait(SPECS, 240, lambda: False, open_agents=False) == ""
                raylet_of(second).kill()
                assert losses.look()
                assert losses.lost == ["n2"]
        assert losses.left_out == {"n2"}
        with joined(cluster, "n2") as half_alive:
            theirs = {node_id for node_id, name in other_nodes().items() if name == "n3"}
            raylet_of(half_alive).send_signal(signal.SIGSTOP)
            assert losses.wait(SPECS, 0, lambda: False, open_agents=False) == "", "n3 is there, and has room"
            assert not losses.look()
            started = start(tmp_path, *SPECS, toy("data"), left_out=losses.left_out)
            assert {worker.node_id for group in started.workers.values() for worker in group} - {here()} == theirs
            started.shutdown(kill=True)
            assert "the groups ask for" in shortage(SPECS, {"n2", "n3"})


@pytest.mark.slow
def test_a_node_with_smaller_cards_than_planned_takes_no_place(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if reason := bed.why_not():
        pytest.skip(f"a node cannot have a name of its own: {reason}")
    losses, asked, path = Losses(cluster), [toy("policy", gpus_per_rank=1)], os.environ["PATH"]

    def missing(seconds: float) -> str:
        return losses.wait(asked, seconds, lambda: False, open_agents=False, gpu_memory=79 * 2**30)

    def join_with_card(name: str, mib: int) -> None:
        (tmp_path / name).mkdir()
        tool = tmp_path / name / "nvidia-smi"
        tool.write_text(f"#!/bin/sh\necho NVIDIA H100, {mib}\n")
        tool.chmod(0o755)
        with monkeypatch.context() as there:
            there.setenv("PATH", f"{tool.parent}:{path}")
            nodes.enter_context(joined(cluster, name, "--num-gpus=1"))

    with ExitStack() as nodes:
        join_with_card("n2", 40960)
        # a node of the test before may be among Ray's living ones for a while
        assert wait_until(lambda: "the groups ask for" in missing(0), 240), missing(0)
        join_with_card("n3", 81559)
        assert missing(240) == ""
        assert losses.left_out == {"n2"}


@pytest.mark.slow
def test_another_node_takes_the_place_of_a_lost_one(cluster: Cluster, tmp_path: Path) -> None:
    with joined(cluster) as second:
        losses, nodes = Losses(cluster), other_nodes()
        raylet_of(second).kill()
        assert losses.look()
    with joined(cluster) as third:
        assert losses.wait(SPECS, 240, lambda: False, open_agents=False) == ""
        again = start(tmp_path, *SPECS, toy("data"), left_out=("elsewhere",))
        (there,) = {worker.node_id for group in again.workers.values() for worker in group} - {here()}
        assert there not in nodes, "not the one that was lost"
        again.shutdown(kill=True)
        raylet_of(third).kill()
        assert losses.wait(SPECS, 0, lambda: False, open_agents=False), "it does not answer, or there is no room"


def here() -> str:
    return str(ray.get_runtime_context().get_node_id())
