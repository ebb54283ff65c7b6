"""Seats: packed on GPU nodes, spread on CPU nodes, each used once."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distft.common.errors import EnvironmentFallsShort, UserError
from distft.planning.hardware import Hardware
from distft.planning.placement_plan import Arrangement, Seat, Span, arrangements, node_kinds, seats
from tests.unit.launch.examples import recipe

ROLES = ("policy", "reference", "reward", "value")  # of ppo


def hardware(nodes: int = 1, cpus: int = 2, gpus: int = 0, ranks_per_cpu: int = 4) -> Hardware:
    return Hardware(nodes, cpus, gpus, 2**40, 2**36 if gpus else 0, ranks_per_cpu)


def separate(**ranks: int) -> Arrangement:
    own = {role: role for role in ranks}
    return Arrangement(own, own, ranks)


def each_seat(arrangement: Arrangement, there: Hardware) -> dict[str, list[Seat]]:
    return {root: [seat for span in spans for seat in span] for root, spans in seats(arrangement, there).items()}


def nodes_of(arrangement: Arrangement, there: Hardware) -> dict[str, list[int]]:
    return {root: [seat.node for seat in chosen] for root, chosen in each_seat(arrangement, there).items()}


def test_cpu_ranks_are_spread_over_all_nodes() -> None:
    found = nodes_of(separate(policy=4, reference=2), hardware(nodes=2))
    assert found == {"policy": [0, 0, 1, 1], "reference": [0, 1]}


def test_fewer_ranks_than_cpu_nodes_go_to_the_emptiest() -> None:
    found = nodes_of(separate(policy=1, reference=1, reward=1), hardware(nodes=2))
    assert found == {"policy": [0], "reference": [1], "reward": [0]}


def test_gpu_ranks_are_packed_and_large_roles_get_whole_nodes() -> None:
    found = nodes_of(separate(policy=8, reference=4, reward=4, value=8), hardware(nodes=3, cpus=96, gpus=8))
    assert found["policy"] == [0] * 8
    assert found["value"] == [1] * 8
    assert found["reference"] == found["reward"] == [2] * 4


def test_a_small_role_fills_the_fullest_gap() -> None:
    found = nodes_of(separate(policy=6, reference=2, reward=1), hardware(nodes=2, cpus=96, gpus=8))
    assert found == {"policy": [0] * 6, "reference": [0] * 2, "reward": [1]}


def test_a_role_is_split_where_no_node_holds_it_whole() -> None:
    found = nodes_of(separate(policy=6, reference=6, reward=4), hardware(nodes=2, cpus=96, gpus=8))
    assert found["reward"] == [0, 0, 1, 1]


def test_ranks_that_do_not_divide_are_refused_with_the_nearest() -> None:
    with pytest.raises(UserError, match="3 ranks do not divide over 2 nodes") as caught:
        seats(separate(policy=3), hardware(nodes=2))
    assert "2 or 4" in caught.value.hint
    assert caught.value.where == "placement.policy.ranks"
    with pytest.raises(UserError, match="12 ranks do not divide") as caught:
        seats(separate(policy=12), hardware(nodes=4, cpus=96, gpus=8))
    assert "8 or 16" in caught.value.hint


@pytest.mark.parametrize(
    ("there", "said"),
    [
        (hardware(cpus=1), "8 ranks are asked for .* room for 4: 1 node x 1 CPU x 4 ranks a CPU"),
        (hardware(cpus=96, gpus=4), r"8 GPUs are asked for .* the cluster has 4 \(1 x 4\)"),
    ],
)
def test_too_many_says_asked_available_and_what_fits(there: Hardware, said: str) -> None:
    with pytest.raises(EnvironmentFallsShort, match=said) as caught:
        seats(separate(policy=2, reference=2, reward=2, value=2), there)
    assert "1 rank for each of policy, reference, reward, value would fit" in caught.value.hint
    assert caught.value.exit_status == 3


@given(
    ranks=st.lists(st.integers(1, 6), min_size=1, max_size=4),
    nodes=st.integers(1, 5),
    gpus=st.sampled_from([0, 2, 4, 8]),
)
def test_no_slot_is_used_twice_and_ranks_are_in_node_order(ranks: list[int], nodes: int, gpus: int) -> None:
    there = hardware(nodes=nodes, cpus=8, gpus=gpus, ranks_per_cpu=2)
    try:
        found = each_seat(separate(**dict(zip(ROLES, ranks, strict=False))), there)
    except UserError:
        divided_over = gpus or nodes
        uneven = any(number > divided_over and number % divided_over for number in ranks)
        assert uneven or sum(ranks) > nodes * there.slots
        return
    used = Counter(seat for chosen in found.values() for seat in chosen)
    assert max(used.values()) == 1
    assert sum(used.values()) == sum(ranks)
    assert all(0 <= seat.node < nodes and 0 <= seat.slot < there.slots for seat in used)
    for chosen in found.values():
        assert [seat.node for seat in chosen] == sorted(seat.node for seat in chosen)


@pytest.mark.parametrize(
    ("kind", "there", "expected"),
    [
        ("sft", hardware(cpus=2), {"policy": 2}),
        ("sft", hardware(cpus=1), {"policy": 1}),
        ("ppo", hardware(cpus=2), {"policy": 2, "reference": 2, "reward": 2, "value": 2}),
        ("ppo", hardware(cpus=3, ranks_per_cpu=2), {"policy": 1, "reference": 1, "reward": 1, "value": 1}),
        ("dpo", hardware(nodes=2), {"policy": 2, "reference": 2}),
        ("sft", hardware(nodes=4, cpus=96, gpus=8), {"policy": 32}),
        ("dpo", hardware(cpus=96, gpus=8), {"policy": 4, "reference": 4}),
        ("ppo", hardware(cpus=96, gpus=8), {"policy": 2, "reference": 2, "reward": 2, "value": 2}),
        ("ppo", hardware(nodes=3, cpus=96, gpus=8), {"policy": 8, "reference": 4, "reward": 4, "value": 8}),
        ("ppo", hardware(nodes=1024, cpus=96, gpus=8), dict.fromkeys(ROLES, 2048)),
    ],
)
def test_auto_ranks(kind: str, there: Hardware, expected: dict[str, int]) -> None:
    assert dict(arrangements(recipe(kind), there)[0].ranks) == expected


def test_auto_takes_turns_where_there_are_fewer_gpus_than_roles() -> None:
    first, *others = arrangements(recipe("ppo"), hardware(cpus=96, gpus=2))
    assert dict(first.ranks) == {"policy": 2}
    assert set(first.set_of.values()) == {"policy"}
    assert first.members == {"policy": ("policy", "reference", "reward", "value")}
    assert all(len(other.ranks) < 4 for other in others)


def test_auto_tries_frozen_roles_in_turns_with_trained_ones() -> None:
    tried = arrangements(recipe("ppo"), hardware(nodes=2, cpus=96, gpus=8))
    pairs = [one for one in tried if dict(one.ranks) == {"policy": 8, "value": 8}]
    assert [one.members for one in pairs] == [{"policy": ("policy", "reference"), "value": ("reward", "value")}]
    assert len(tried) == len({(str(one.set_of), str(one.ranks)) for one in tried})


def test_fewer_leaves_gpus_over_and_the_plain_ones_use_all() -> None:
    there = hardware(nodes=16, cpus=96, gpus=8)
    plain = arrangements(recipe("dpo"), there, fewer=False)
    every = arrangements(recipe("dpo"), there)
    assert max(sum(one.ranks.values()) for one in plain) == 128
    assert {sum(one.ranks.values()) for one in every} >= {16, 32, 64, 128}
    assert {str(one) for one in plain} <= {str(one) for one in every}


def test_said_ranks_are_kept_and_auto_takes_the_rest() -> None:
    placement = {"policy": {"ranks": 4}, "reference": {"with": "policy"}}
    first = arrangements(recipe("ppo", {"placement": placement}), hardware(cpus=96, gpus=8))[0]
    assert dict(first.ranks) == {"policy": 4, "reward": 2, "value": 2}
    assert first.set_of == {"policy": "policy", "reference": "policy", "reward": "reward", "value": "value"}


def test_a_shared_role_has_no_group() -> None:
    changes = {"placement": {"reference": {"share": "policy"}}, "models.policy.peft": {"r": 8}}
    first = arrangements(recipe("dpo", changes), hardware())[0]
    assert first.group_of == {"policy": "policy", "reference": "policy"}
    assert dict(first.ranks) == {"policy": 2}
    assert first.roles_of_set == {"policy": ("policy", "reference")}


def test_kinds_of_nodes_are_counted_once() -> None:
    """Policy on nodes 0 to 5, reference on the last two of them and on a whole node: the first node by itself."""
    spans = {"policy": (Span(0, 6, 0, 4),), "reference": (Span(4, 2, 4, 4), Span(6, 1, 0, 8))}
    found = [(kind.first_node, kind.nodes, dict(kind.ranks)) for kind in node_kinds(spans)]
    assert found == [
        (0, 1, {"policy": 4}),
        (1, 3, {"policy": 4}),
        (4, 2, {"policy": 4, "reference": 4}),
        (6, 1, {"reference": 8}),
    ]


def test_a_thousand_nodes_are_a_few_spans() -> None:
    there = hardware(nodes=1024, cpus=96, gpus=8)
    found = seats(separate(policy=4096, reference=2048, reward=1024, value=1024), there)
    assert {root: len(spans) for root, spans in found.items()} == dict.fromkeys(ROLES, 1)
    assert sum(span.ranks for spans in found.values() for span in spans) == 8192
