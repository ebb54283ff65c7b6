"""The fullest GPU and the fullest node."""

from __future__ import annotations

import pytest

from distft.config.find_method import traits_of
from distft.planning.footprint import group_memory
from distft.planning.hardware import Hardware
from distft.planning.loads import loads
from distft.planning.memory import Item
from distft.planning.placement_plan import Arrangement, Span
from distft.planning.residency import turns_of
from tests.unit.planning.test_footprint import FROZEN, POLICY

GIB = 2**30


@pytest.mark.parametrize("nodes", [2, 1024])
def test_the_first_node_is_the_fullest_and_says_of_what(nodes: int) -> None:
    """Two ranks of each on every node; the driver sits on the first; either group has a place to wait in there."""
    groups = {"policy": group_memory(POLICY, gpu=True), "reference": group_memory(FROZEN, gpu=True)}
    own = {"policy": "policy", "reference": "reference"}
    together = {"policy": "policy", "reference": "policy"}
    there = Hardware(nodes, 8, 2, 100 * GIB, 90, 1)
    turns = Arrangement(own, together, {"policy": 2 * nodes})
    found = loads(groups, turns, {"policy": (Span(0, nodes, 0, 2),)}, there, "ppo", turns_of(groups, turns, there))
    assert [load.kind for load in found] == ["gpu", "node"]
    assert (found[0].bytes, found[0].capacity) == (76, 90)
    node = found[1]
    assert node.where == "node 0"
    assert dict(node.parts)["policy"] == 2 * 3
    assert dict(node.parts)["places for those who sleep"] == 2 * (32 + 8), "the policy keeps its weights"
    assert node.bytes == sum(size for _, size in node.parts)


def test_groups_that_share_gpus_load_one_after_the_other() -> None:
    loading = Item("whole model while it is loaded", 10, "loading", "host")
    groups = {name: group_memory([*items, loading], gpu=True) for name, items in (("policy", POLICY), ("x", FROZEN))}
    own, there = {"policy": "policy", "x": "x"}, Hardware(1, 8, 2, 100 * GIB, 90, 1)

    def loaded(of: dict[str, str], ranks: dict[str, int]) -> int:
        arrangement = Arrangement(own, of, ranks)
        spans = {root: (Span(0, 1, slot, 1),) for slot, root in enumerate(ranks)}
        node = loads(groups, arrangement, spans, there, "ppo", turns_of(groups, arrangement, there))[-1]
        return sum(size for name, size in node.parts if name in own)

    always = 2 * 3
    assert loaded(own, {"policy": 1, "x": 1}) == always + 20
    assert loaded({"policy": "policy", "x": "policy"}, {"policy": 1}) == always + 10


@pytest.mark.parametrize(("algorithm", "together"), [("dpo", 10 + 5), ("ppo", 10)])
def test_on_cpus_dpos_reference_reads_while_the_policy_learns(algorithm: str, together: int) -> None:
    """One rank of each on one node: what is always there, and the activations of whoever computes at once."""
    groups = {"policy": group_memory(POLICY, gpu=False), "reference": group_memory(FROZEN, gpu=False)}
    own = {"policy": "policy", "reference": "reference"}
    spans = {"policy": (Span(0, 1, 0, 1),), "reference": (Span(0, 1, 1, 1),)}
    there = Hardware(1, 2, 0, 100 * GIB, 0, 1)
    apart = Arrangement(own, own, {"policy": 1, "reference": 1})
    (node,) = loads(groups, apart, spans, there, traits_of(algorithm).works_ahead, turns_of(groups, apart, there))
    always = (8 + 8 + 32 + 16 + 1 + 3) + (8 + 1 + 3)
    assert sum(size for name, size in node.parts if name in own) == always + together
