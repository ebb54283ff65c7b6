"""Groups on GPUs and nodes."""

from __future__ import annotations

import pytest

from distft.planning.footprint import GroupMemory, group_memory, loads, needed_in_turns
from distft.planning.hardware import Hardware
from distft.planning.memory import Item
from distft.planning.placement_plan import Arrangement, Span

GIB = 2**30
POLICY = [
    Item("parameters", 8), Item("gradients", 8), Item("optimizer states", 32), Item("generation twin", 16),
    Item("key-value cache", 4, "generation"), Item("activations", 10, "training"), Item("process", 1),
    Item("process", 3, place="host"),
]  # fmt: skip
FROZEN = [
    Item("parameters", 8),
    Item("activations", 5, "forward"),
    Item("process", 1),
    Item("process", 3, place="host"),
]


def test_a_sleeping_group_leaves_its_process_and_its_generator_on_the_gpu() -> None:
    found = group_memory(POLICY, gpu=True)
    assert found == GroupMemory(awake=8 + 8 + 32 + 16 + 1 + 10, asleep=16 + 1, waiting=48, node={"always": 3})


def test_where_parameters_are_on_the_host_the_other_states_follow_in_a_sleep() -> None:
    items = [
        Item("parameters", 8, place="host"),
        Item("gradients", 8),
        Item("optimizer states", 32),
        Item("process", 1),
    ]
    assert group_memory(items, gpu=True).asleep == 1
    assert group_memory(items, gpu=True).waiting == 40


def test_on_cpus_everything_is_the_nodes() -> None:
    assert group_memory(FROZEN, gpu=False).node == {"always": 8 + 1 + 3, "forward": 5}


def test_a_gpu_shared_in_turns_holds_one_awake_and_the_rest_asleep() -> None:
    policy, frozen = group_memory(POLICY, gpu=True), group_memory(FROZEN, gpu=True)
    assert needed_in_turns([policy]) == 75
    assert needed_in_turns([policy, frozen]) == 75 + 1
    assert needed_in_turns([frozen, frozen]) == 14 + 1


@pytest.mark.parametrize("nodes", [2, 1024])
def test_the_first_node_is_the_fullest_and_says_of_what(nodes: int) -> None:
    """Two ranks of each on every node; the driver sits on the first; one group's 48 or the other's 8 wait there."""
    groups = {"policy": group_memory(POLICY, gpu=True), "reference": group_memory(FROZEN, gpu=True)}
    own = {"policy": "policy", "reference": "reference"}
    together = {"policy": "policy", "reference": "policy"}
    there = Hardware(nodes, 8, 2, 100 * GIB, 100, 1)
    turns = Arrangement(own, together, {"policy": 2 * nodes})
    found = loads(groups, turns, {"policy": (Span(0, nodes, 0, 2),)}, there, "ppo")
    assert [load.kind for load in found] == ["gpu", "node"]
    assert (found[0].bytes, found[0].capacity) == (76, 100)
    node = found[1]
    assert node.where == "node 0"
    assert dict(node.parts)["policy"] == 2 * 3
    assert dict(node.parts)["asleep"] == 2 * 48
    assert node.bytes == sum(size for _, size in node.parts)


@pytest.mark.parametrize(("algorithm", "together"), [("dpo", 10 + 5), ("ppo", 10)])
def test_on_cpus_dpos_reference_reads_while_the_policy_learns(algorithm: str, together: int) -> None:
    """One rank of each on one node: what is always there, and the activations of whoever computes at once."""
    groups = {"policy": group_memory(POLICY, gpu=False), "reference": group_memory(FROZEN, gpu=False)}
    own = {"policy": "policy", "reference": "reference"}
    spans = {"policy": (Span(0, 1, 0, 1),), "reference": (Span(0, 1, 1, 1),)}
    there = Hardware(1, 2, 0, 100 * GIB, 0, 1)
    (node,) = loads(groups, Arrangement(own, own, {"policy": 1, "reference": 1}), spans, there, algorithm)
    always = (8 + 8 + 32 + 16 + 1 + 3) + (8 + 1 + 3)
    assert sum(size for name, size in node.parts if name in own) == always + together
