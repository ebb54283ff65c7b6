"""Ranks that hold all parameters a second time sit on one node, and the plan counts what they hold."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from distft.common.errors import UserError
from distft.config.load import load_recipe
from distft.planning.plan import Plan, make_plan
from tests.unit.launch.examples import LAPTOP, cpu_cluster, gpu_cluster, llama

KEY = "models.policy.engine.hpz_partition_size"


def on_gpus(by: int, ranks: int, nodes: int = 4) -> Plan:
    made = llama("sft", {KEY: by, "placement.policy.ranks": ranks, "models.policy.gradient_checkpointing": True})
    return make_plan(made, gpu_cluster(nodes=nodes))


def test_items() -> None:
    """An eighth of the model beside a thirty-second of it, in bfloat16."""
    items = {item.name: item for item in on_gpus(8, 32).memory["policy"].items}
    assert items["second shards"].bytes == pytest.approx(4 * items["parameters"].bytes, rel=1e-3)
    assert (items["second shards"].when, items["second shards"].place) == ("always", "device")
    assert "second shards" not in {item.name for item in on_gpus(1, 32).memory["policy"].items}


@pytest.mark.parametrize(("by", "ranks", "nodes", "parts"), [
    (16, 32, 4, ["16 ranks hold all parameters, and a node has 8 of the policy's", f"{KEY}=8"]),
    (8, 8, 1, ["is all 8 ranks of the policy", f"{KEY}=1"]),
    (3, 32, 4, ["3 ranks hold all parameters, and the policy has 32", "placement.policy.ranks=3, or a multiple"]),
])  # fmt: skip
def test_what_does_not_fit_the_nodes_is_refused(by: int, ranks: int, nodes: int, parts: Sequence[str]) -> None:
    with pytest.raises(UserError) as caught:
        on_gpus(by, ranks, nodes)
    assert all(part in str(caught.value) for part in (KEY, *parts))
    assert on_gpus(8, 32).fits


def test_a_reference_takes_it_over_and_a_rank_alone_has_none() -> None:
    words = [f"{KEY}=2", "placement.policy.ranks=4", "placement.reference.ranks=4"]
    plan = make_plan(load_recipe("dpo-tiny", words), cpu_cluster(cpus=8))
    assert all("second shards" in {item.name for item in plan.memory[role].items} for role in ("policy", "reference"))
    whole = make_plan(load_recipe("dpo-tiny", [*words, "models.reference.engine.zero_stage=0"]), cpu_cluster(cpus=8))
    assert "second shards" not in {item.name for item in whole.memory["reference"].items}
    words[-1] = "placement.reference.ranks=1"
    plan = make_plan(load_recipe("dpo-tiny", words), cpu_cluster(cpus=8))
    assert "second shards" not in {item.name for item in plan.memory["reference"].items}
    alone = make_plan(load_recipe("sft-tiny", [f"{KEY}=2", "placement.policy.ranks=1"]), cpu_cluster(), machine=LAPTOP)
    assert "second shards" not in {item.name for item in alone.memory["policy"].items}
