from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distft.common.errors import EnvironmentFallsShort
from distft.groups.bundles import (
    Bundle,
    GroupSpec,
    Node,
    Where,
    bundles,
    choose_nodes,
    gpu_share,
    in_order,
    local_ranks,
    node_number,
    rank_order,
    sharers,
)


def spec(role: str, num_ranks: int, **fields: Any) -> GroupSpec:
    return GroupSpec(role=role, num_ranks=num_ranks, worker="module:Class", **fields)


def node(name: str, cpus: float, gpus: float = 0.0) -> Node:
    return Node(name, "10.0.0.1", {"CPU": cpus, "GPU": gpus})


# ---- what is asked


def test_sharers_use_gpus_in_turn_and_cpus_at_once() -> None:
    both = [
        spec("policy", 2, device_set="main", cpus_per_rank=2, gpus_per_rank=1, memory=10),
        spec("reference", 1, device_set="main", cpus_per_rank=1, gpus_per_rank=1),
    ]
    assert [dict(place.resources) for place in bundles(both)] == [
        {"CPU": 3, "GPU": 1, "memory": 10},
        {"CPU": 2, "GPU": 1, "memory": 10},
    ]
    assert [gpu_share(one, both) for one in both] == [0.5, 0.5]
    assert gpu_share(both[0], both[:1]) == 1


def test_shares_of_a_gpu_never_exceed_it() -> None:
    many = [spec(f"role{i}", 1, device_set="main", gpus_per_rank=1) for i in range(7)]
    assert sum(gpu_share(one, many) for one in many) <= 1


def test_groups_without_a_device_set_have_their_own() -> None:
    assert list(sharers([spec("policy", 1), spec("value", 1)])) == ["policy", "value"]


def test_contradicting_sharers_are_refused() -> None:
    with pytest.raises(ValueError, match="not their nodes"):
        sharers([spec("a", 1, device_set="x", node_of_rank=(0,)), spec("b", 1, device_set="x", node_of_rank=(1,))])
    with pytest.raises(ValueError, match="at most one GPU"):
        sharers([spec("a", 1, device_set="x", gpus_per_rank=2), spec("b", 1, device_set="x")])
    with pytest.raises(ValueError, match="1 nodes for 2 ranks"):
        spec("a", 2, node_of_rank=(0,))


# ---- where it can lie


def test_too_little_in_all_says_what_is_asked_and_what_there_is() -> None:
    with pytest.raises(EnvironmentFallsShort) as refusal:
        choose_nodes([Bundle({"CPU": 3.0}, None)] * 3, [node("a", 8.0)])
    assert "ask for 9 CPUs, 0 GPUs in all; the cluster has 10.0.0.1: 8 CPUs, 0 GPUs" in str(refusal.value)
    assert refusal.value.exit_status == 3


def test_a_rank_larger_than_any_node_is_refused() -> None:
    with pytest.raises(EnvironmentFallsShort, match="one rank asks for 5 CPUs"):
        choose_nodes([Bundle({"CPU": 5.0}, None)], [node("a", 4.0), node("b", 4.0)])


def test_numbered_nodes_are_different_ones_and_an_earlier_choice_gives_way() -> None:
    places = [Bundle({"CPU": 1.0}, 0), Bundle({"CPU": 4.0}, 1), Bundle({"CPU": 1.0}, 0)]
    assert choose_nodes(places, [node("large", 4.0), node("small", 2.0)]) == {0: "small", 1: "large"}
    with pytest.raises(EnvironmentFallsShort, match="2 nodes with node 0: 2 CPUs, 0 GPUs; node 1: 4 CPUs"):
        choose_nodes(places, [node("large", 8.0), node("small", 1.0)])


def numbered(name: str, ip: str, number: int | None, cpus: float = 4.0) -> Node:
    return Node(name, ip, {"CPU": cpus}, number)


def test_nodes_go_by_the_number_of_their_launcher_then_the_drivers_then_by_address() -> None:
    nodes = [
        numbered("x", "10.0.0.9", None),
        numbered("b", "10.0.0.3", 1),
        numbered("driver", "10.0.0.10", None),
        numbered("k", "10.0.0.2", 10),
        numbered("a", "10.0.0.4", 0),
    ]
    assert [one.node_id for one in in_order(nodes, "driver")] == ["a", "b", "k", "driver", "x"]
    assert [one.node_id for one in in_order(nodes, "b")][:3] == ["a", "b", "k"]


def test_labels_that_are_no_number_are_none() -> None:
    labels = [{"distft-node": "7"}, {}, {"distft-node": "seven"}, {"ray.io/node-id": "1"}]
    assert [node_number(one) for one in labels] == [7, None, None, None]


def test_the_n_th_node_of_the_plan_is_the_n_th_node() -> None:
    nodes = in_order([numbered(f"n{number}", f"10.0.0.{9 - number}", number) for number in (2, 0, 1)], "n1")
    places = [Bundle({"CPU": 1.0}, number) for number in (0, 1, 2)]
    assert choose_nodes(places, nodes) == {0: "n0", 1: "n1", 2: "n2"}
    assert choose_nodes(places[1:], nodes) == {1: "n1", 2: "n2"}, "also where node 0 holds no rank"


@given(st.lists(st.integers(1, 6), min_size=1, max_size=5), st.randoms())
def test_an_assignment_that_exists_is_found(sizes: list[int], random: Any) -> None:
    """Nodes made from the needs and shuffled: there is one, so it must be found, and it must fit."""
    there = [node(f"n{i}", float(size + random.randint(0, 2))) for i, size in enumerate(sizes)]
    random.shuffle(there)
    found = choose_nodes([Bundle({"CPU": float(size)}, i) for i, size in enumerate(sizes)], there)
    assert len(set(found.values())) == len(sizes)
    room = {one.node_id: one.resources["CPU"] for one in there}
    assert all(room[found[i]] >= size for i, size in enumerate(sizes))


# ---- who is which rank


def where(place: int, ip: str, *devices: str) -> Where:
    return Where(place, f"id-{ip}", ip, "host", 1, devices)


def test_ranks_follow_addresses_as_numbers_and_devices_as_numbers() -> None:
    answers = [where(0, "10.0.0.10", "0"), where(1, "10.0.0.9", "10"), where(2, "10.0.0.9", "2"), where(3, "10.0.0.10")]
    ranks = rank_order(answers, None)
    assert [one.place for one in ranks] == [2, 1, 3, 0]
    assert local_ranks(ranks) == [0, 1, 0, 1]


def test_numbered_nodes_decide_over_addresses() -> None:
    answers = [where(1, "10.0.0.1", "3"), where(0, "10.0.0.2", "1"), where(2, "10.0.0.1", "0")]
    assert [one.place for one in rank_order(answers, (0, 1, 1))] == [0, 2, 1]


def test_without_devices_the_places_decide() -> None:
    answers = [where(2, "10.0.0.1"), where(0, "10.0.0.1"), where(1, "10.0.0.1")]
    assert [one.place for one in rank_order(answers, None)] == [0, 1, 2]
