"""Somebody else's Ray cluster, as its nodes answer: what a plan may use, and what ends a run before it starts."""

from __future__ import annotations

from typing import Any

import pytest

from distft.common.errors import EnvironmentFallsShort
from distft.config.cluster import Cluster, load_cluster
from distft.launch.on_ray.nodes import NodeAnswer, RayNode, check, different, machine_of, smaller_cards, versions

GIB = 2**30


def node(name: str, cpus: int = 8, gpus: int = 0, memory: int = 32) -> RayNode:
    return RayNode(
        name, f"10.0.0.{name[1:]}", name, cpus, gpus, memory * GIB, (f"10.0.0.{name[1:]}", 52365), name == "n1"
    )


def answer(agent: int | str | None = 401, memory: tuple[float, ...] = (), **packages: str) -> NodeAnswer:
    here = versions()
    python = packages.pop("python", here.pop("python"))
    return NodeAnswer(python, here | packages, agent, memory, ("H100",) * len(memory))


def cluster(**changes: Any) -> Cluster:
    return Cluster.model_validate(load_cluster("ray-existing").model_dump() | changes)


def test_the_smallest_node_counts() -> None:
    nodes = [node("n1", cpus=4, memory=16), node("n2", cpus=8, memory=64)]
    machine = machine_of(nodes, {}, cluster())
    assert (machine.nodes, machine.cpus, machine.memory_gib, machine.gpus) == (2, 4, 16.0, 0)


def test_a_head_that_offers_nothing_does_not_count() -> None:
    machine = machine_of([node("n1", cpus=0), node("n2", cpus=16), node("n3", cpus=16)], {}, cluster())
    assert (machine.nodes, machine.cpus) == (2, 16)


def test_where_gpus_are_wanted_the_nodes_that_have_some_count() -> None:
    nodes = [node("n1", cpus=64), node("n2", gpus=8), node("n3", gpus=4)]
    wants = cluster(node={"cpus": "auto", "gpus": "auto", "memory_gib": "auto"})
    answers = {"n2": answer(memory=(81559.0,) * 8), "n3": answer(memory=(40960.0,) * 4)}
    machine = machine_of(nodes, answers, wants)
    assert (machine.nodes, machine.gpus, machine.gpu_memory_gib, machine.gpu_type) == (2, 4, 40.0, "H100")
    cpu_only = machine_of(nodes, answers, cluster())
    assert (cpu_only.nodes, cpu_only.gpus) == (3, 0), "the file says gpus: 0"
    without = machine_of([node("n1")], {}, wants)
    assert (without.nodes, without.gpus) == (1, 0), "auto, and there are none"


def test_cards_smaller_than_planned_are_named_with_their_size() -> None:
    nodes = [node("n1", gpus=2), node("n2", gpus=2), node("n3", gpus=2), node("n4", gpus=2), node("n5")]
    answers = {
        "n1": answer(memory=(81559.0, 81559.0)),
        "n2": answer(memory=(81559.0, 40960.0)),
        "n3": answer(memory=(81037.0, 81037.0)),  # another driver keeps a little more for itself
        "n4": answer(),
        "n5": answer(memory=(40960.0,)),  # offers Ray none of them
    }
    assert smaller_cards(nodes, answers, 81559 * 2**20) == {"n2": 40.0}
    assert smaller_cards(nodes, answers, 0) == {}, "a plan without GPUs"


def test_no_node_is_of_use() -> None:
    with pytest.raises(EnvironmentFallsShort, match=r"offers CPUs: n1 \(10.0.0.1\): 0 CPUs, 0 GPUs"):
        machine_of([node("n1", cpus=0)], {}, cluster())


def test_nodes_that_are_as_we_are_pass() -> None:
    check([node("n1"), node("n2")], {"n1": answer(), "n2": answer(None)}, open_agents=False)


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (answer(200), r"agent of node n2 \(10.0.0.2\) answered 200, not 401"),
        (answer("timeout"), "answered timeout, not 401"),
        (answer(distft="0.0.1"), "has other versions than this process: distft 0.0.1 there"),
        (answer(distft=""), "distft missing there"),
        (answer(python="3.9.0"), "python 3.9.0 there"),
        (ModuleNotFoundError("x"), "node n2 .* does not run tasks: x"),
    ],
)
def test_one_that_is_not_ends_it_before_it_starts(bad: NodeAnswer | Exception, said: str) -> None:
    with pytest.raises(EnvironmentFallsShort, match=said):
        check([node("n1"), node("n2")], {"n1": answer(), "n2": bad}, open_agents=False)


def test_an_open_agent_may_be_accepted() -> None:
    check([node("n1")], {"n1": answer(200)}, open_agents=True)


def test_what_differs_is_named() -> None:
    assert different(versions(), answer()) == ""
    assert different({"python": "3.11", "distft": ""}, NodeAnswer("3.11", {"distft": "1"}, 401, (), ())) == (
        "distft 1 there, missing here"
    )
