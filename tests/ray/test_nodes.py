"""Two nodes (raylets) on one machine: who lies where, and what the loss of one looks like."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import ray

from distft.clients.asking import ask
from distft.common.errors import RunFailed
from distft.groups.handles import together
from distft.groups.placement import Groups
from distft.launch.on_ray.cluster import Cluster, connect
from distft.launch.on_ray.nodes import lost_nodes, other_nodes
from tests.ray.conftest import LOOPBACK_STAYS, start, toy
from tests.ray.toy_worker import ToyWorker

pytestmark = pytest.mark.ray
START = f"{LOOPBACK_STAYS}from ray.scripts.scripts import main\nmain()"


@pytest.fixture(scope="module")
def second_node() -> Iterator[psutil.Process]:
    """A cluster of two nodes; the second one's raylet."""
    with connect(num_cpus=4, object_store_bytes=128 * 2**20) as cluster:
        process = join(cluster)
        try:
            yield raylet_of(process)
        finally:
            for child in (children := psutil.Process(process.pid).children(recursive=True)):
                child.kill()
            process.kill()
            process.wait()
            psutil.wait_procs(children, timeout=10)


def join(cluster: Cluster) -> subprocess.Popen[bytes]:
    options = ["--block", f"--address={cluster.address}", "--node-ip-address=127.0.0.1", "--num-cpus=8"]
    process = subprocess.Popen(
        [sys.executable, "-c", START, "start", *options, "--object-store-memory=100000000"],
        env=dict(os.environ),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    until = time.monotonic() + 60
    while len([node for node in ray.nodes() if node["Alive"]]) < 2:
        assert time.monotonic() < until, "the second node has not joined"
        assert process.poll() is None, "the second node did not start"
        time.sleep(0.2)
    return process


def raylet_of(process: subprocess.Popen[bytes]) -> psutil.Process:
    return next(child for child in psutil.Process(process.pid).children() if child.name() == "raylet")


@pytest.fixture(scope="module")
def groups(second_node: psutil.Process, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Groups]:
    """Node 1 needs more CPUs than the driver's node has, so node 0 is the driver's."""
    started = start(
        tmp_path_factory.mktemp("run"),
        toy("policy", 3, cpus_per_rank=2, node_of_rank=(1, 0, 1)),
        toy("value", 2, cpus_per_rank=1, node_of_rank=(0, 1)),
    )
    yield started
    started.shutdown(kill=True)


def test_ranks_lie_on_the_nodes_of_their_numbers(groups: Groups) -> None:
    here = ray.get_runtime_context().get_node_id()
    assert [worker.node_id == here for worker in groups.workers["value"]] == [True, False]
    facts = ask(groups["policy"], ToyWorker.facts).result().reports
    by_node = [worker.node_id == here for worker in groups.workers["policy"]]
    assert by_node == [True, False, False], "ranks follow their nodes"
    assert [fact["local_rank"] for fact in facts] == [0, 0, 1]


def test_a_lost_node_is_seen_while_a_call_waits(groups: Groups, second_node: psutil.Process) -> None:
    nodes = other_nodes()
    assert lost_nodes(nodes) == []
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
    assert lost_nodes(nodes) == list(nodes.values()), "whatever was seen of it: there is no restart without it"
    started = time.monotonic()
    groups.shutdown(kill=True)
    assert time.monotonic() - started < 45
