"""Which node keeps which files of a copy in memory, and gets which of them."""

from __future__ import annotations

import pytest

from distft.checkpoint.memory_copy import needed_on, ring, sends
from distft.checkpoint.role_layout import RoleLayout

SHARDED, WHOLE = RoleLayout(4, 3), RoleLayout(4, 0)
NODES = {"policy": ["a", "a", "b", "b"], "reference": ["b", "c"], "rollout": ["c"], "data": ["a"]}


def test_each_node_has_another_that_keeps_its_files_and_one_alone_has_none() -> None:
    assert ring(["a", "b", "c"]) == {"a": "b", "b": "c", "c": "a"}
    assert ring(["a", "b"]) == {"a": "b", "b": "a"}
    assert ring(["a"]) == {}


@pytest.mark.parametrize(
    ("path", "then", "now", "nodes"),
    [
        ("policy/states_2.safetensors", SHARDED, SHARDED, "b"),
        ("policy/rng_3.pt", SHARDED, SHARDED, "b"),
        ("policy/states_0.safetensors", SHARDED, SHARDED, "ab"),
        ("policy/states_2.safetensors", WHOLE, WHOLE, "ab"),
        ("policy/states_2.safetensors", RoleLayout(8, 3), SHARDED, "ab"),
        ("policy/states_2.safetensors", RoleLayout(4, 3, ("optimizer",)), SHARDED, "ab"),
        ("reference/model.safetensors", SHARDED, SHARDED, "bc"),
        ("rollout/ahead.safetensors", SHARDED, SHARDED, "a"),
    ],
)
def test_a_rank_of_the_same_layout_needs_its_own_file(path: str, then: RoleLayout, now: RoleLayout, nodes: str) -> None:
    assert needed_on(path, {"policy": then, "reference": then}, {"policy": now, "reference": now}, NODES) == set(nodes)


def test_who_lacks_a_file_gets_it_from_those_that_have_it_in_turn() -> None:
    needs = {"a": ["1", "2"], "new": ["1", "3", "4"]}
    held = {"a": ["1", "2", "3", "4"], "b": ["1", "3", "4"]}
    assert sends(needs, held) == {("a", "new"): ["1", "4"], ("b", "new"): ["3"]}
    with pytest.raises(KeyError, match="5"):
        sends({"new": ["5"]}, held)


def test_after_the_loss_of_any_node_the_ring_has_all_files() -> None:
    own = {node: {f"of {node}"} for node in "abcd"}
    held = {node: own[node] | own[before] for before, node in ring("abcd").items()}
    for lost in "abcd":
        assert set().union(*(held[node] for node in held if node != lost)) == set().union(*own.values())
