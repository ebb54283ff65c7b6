"""A plan for the nodes that are left: on as many of them as have room, with the recipe's ranks where they fit."""

from __future__ import annotations

from pathlib import Path

import pytest

from distft.config.cluster import Cluster
from distft.config.load import load_recipe
from distft.config.recipe import Recipe
from distft.launch.fewer_nodes import Fewer, changed_ranks, plan_for_fewer
from distft.planning.machine import Machine
from distft.planning.plan import Plan, make_plan

CLUSTER = Cluster.model_validate({"name": "four", "kind": "ray", "nodes": 4, "node": {"cpus": 4, "gpus": 0}})


def machine(nodes: int, memory_gib: float = 16.0) -> Machine:
    return Machine(cpus=4, memory_gib=memory_gib, nodes=nodes)


def sft(tmp_path: Path, *words: str) -> Recipe:
    return load_recipe("sft-tiny", [f"output_dir={tmp_path}", "recovery.elastic=true", *words])


def fewer(recipe: Recipe, there: Machine, full: int = 0) -> Fewer | str:
    """``full``: plans on so many nodes and more find no room."""

    def shortage(_: Recipe, plan: Plan) -> str:
        return f"no room on {plan.hardware.nodes}" if full and plan.hardware.nodes >= full else ""

    return plan_for_fewer(recipe, CLUSTER, there, most=4, shortage=shortage)


def test_ranks_that_still_have_room_stay(tmp_path: Path) -> None:
    recipe = sft(tmp_path, "placement.policy.ranks=3")
    found = fewer(recipe, machine(1))
    assert isinstance(found, Fewer)
    assert (found.nodes, found.recipe, found.plan.groups["policy"].num_ranks) == (1, recipe, 3)


def test_ranks_that_have_none_are_as_many_as_the_plan_chooses(tmp_path: Path) -> None:
    recipe = sft(tmp_path, "placement.policy.ranks=16")
    former = make_plan(recipe, CLUSTER, machine=machine(4))
    assert former.groups["policy"].num_ranks == 16
    for nodes in (3, 1):
        found = fewer(recipe, machine(nodes))
        assert isinstance(found, Fewer)
        now = found.plan.groups["policy"].num_ranks
        assert (found.nodes, found.plan.hardware.nodes) == (nodes, nodes)
        assert 1 <= now <= 4 * nodes
        assert changed_ranks(former, found.plan) == {"policy": f"16 -> {now}"}
        assert found.recipe == recipe.model_copy(update={"placement": found.recipe.placement})


def test_who_shares_still_shares(tmp_path: Path) -> None:
    words = ["models.policy.peft.method=lora", "placement.reference.share=policy", "placement.policy.ranks=16"]
    found = fewer(load_recipe("dpo-tiny", [f"output_dir={tmp_path}", *words]), machine(2))
    assert isinstance(found, Fewer)
    assert found.recipe.placement.reference.share == "policy"
    assert found.plan.groups["policy"].roles == ("policy", "reference")


def test_nodes_without_room_are_passed_over(tmp_path: Path) -> None:
    found = fewer(sft(tmp_path), machine(3), full=2)
    assert isinstance(found, Fewer)
    assert found.nodes == 1
    assert fewer(sft(tmp_path), machine(3), full=1) == "no room on 1"


@pytest.mark.parametrize("there", [machine(2, memory_gib=0.05)])
def test_what_does_not_fit_anywhere_is_no_plan(tmp_path: Path, there: Machine) -> None:
    assert fewer(sft(tmp_path), there) == "it does not fit into memory there"
