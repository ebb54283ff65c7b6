"""The time of each role's work, against numbers worked out by hand."""

from __future__ import annotations

from typing import Any

import pytest

from distft.config.recipe import Recipe
from distft.planning import costs
from distft.planning.footprint import Roles, SizeBook
from distft.planning.hardware import hardware_of
from distft.planning.role_time import Place, RoleTime, Timing
from distft.planning.size_sources import sizes_from_config
from tests.unit.launch.examples import LLAMA_8B, gpu_cluster, llama

H100 = hardware_of(gpu_cluster(1024), None)
SIZES = sizes_from_config(LLAMA_8B)
RATE = 0.5 * 989e12
MEMORY = 0.75 * 3350e9


def time_of(run: Recipe, role: str, work: str, ranks: int) -> RoleTime:
    return Timing(Roles(run, SizeBook()), H100).of(role, work, Place(ranks, -(-ranks // 8)))


def test_update_on_one_gpu_is_arithmetic_and_the_optimizer() -> None:
    """64 rows of 2,048 tokens; on one rank nothing is sent. Adam moves 30 bytes a parameter. Logits are made twice."""
    found = time_of(llama("sft"), "policy", "update", 1)
    head = 2 * 128_256 * 4096 * 64 * 2048
    arithmetic = (costs.training_flops(SIZES, 64 * 2048, 2048, 64 * 2048, checkpointing=False) + head) / RATE
    plain = time_of(llama("sft", {"models.policy.kernels": "none"}), "policy", "update", 1)
    assert found.parts["arithmetic"] - plain.parts["arithmetic"] == pytest.approx(head / RATE)
    optimizer = 30 * SIZES.total / MEMORY
    assert found.seconds == pytest.approx(arithmetic + optimizer)
    assert found.parts == pytest.approx({"arithmetic": arithmetic, "GPU memory": optimizer})
    assert found.bound_by == "arithmetic"


def test_update_at_stage_3_gathers_twice_and_scatters_once_a_micro_batch() -> None:
    """8 rows a rank, 2 at a time: 4 micro-batches; 3 x 16 GB over links of 360 GB/s in each."""
    found = time_of(llama("sft"), "policy", "update", 8)
    once = costs.Ring(8, 360e9, 32.2e-6).seconds(2 * SIZES.total, costs.gather_calls(SIZES, 50_000_000))
    head = 2 * 128_256 * 4096 * 8 * 2048
    arithmetic = (costs.training_flops(SIZES, 8 * 2048, 2048, 8 * 2048, checkpointing=False) + head) / RATE
    optimizer = 30 * SIZES.total / 8 / MEMORY
    links = 4 * 3 * once
    assert found.parts == pytest.approx({"arithmetic": arithmetic, "links": links, "GPU memory": optimizer})
    assert found.seconds == pytest.approx(max(arithmetic, links) + 0.2 * min(arithmetic, links) + optimizer)


def test_eager_attention_looks_at_a_packed_row_whole_and_others_at_each_sample_alone() -> None:
    """Two samples of 2,048 in a row."""
    rows, row, apart = (
        time_of(llama("sft", {"models.policy.attention": attention}, engine={"packed": packed}), "policy", "update", 8)
        for attention, packed in (("sdpa", False), ("eager", True), ("sdpa", True))
    )
    more = 3 * 8 * 2048 * costs.attention_flops(SIZES, 2048) / RATE
    assert row.parts["arithmetic"] == pytest.approx(rows.parts["arithmetic"] + more)
    assert apart.parts == rows.parts


@pytest.mark.parametrize(("stage", "each", "summed", "end"), [(0, 0, 2, 0), (1, 0, 2, 1), (2, 2, 0, 1), (3, 3, 0, 0)])
def test_what_each_stage_sends(stage: int, each: int, summed: int, end: int) -> None:
    """In units of one pass over all parameters: a micro-batch, and after the last one, sums of gradients in float32
    (see e2e/test_plan_truth.py)."""
    found = time_of(llama("sft", engine={"zero_stage": stage}), "policy", "update", 8)
    ring, calls = costs.Ring(8, 360e9, 32.2e-6), costs.gather_calls(SIZES, 50_000_000)
    once, in_float32 = (ring.seconds(size * SIZES.total, calls) for size in (2, 4))
    assert found.parts.get("links", 0.0) == pytest.approx((4 * each + end) * once + summed * in_float32)


def test_an_optimizer_on_the_host_is_bound_by_host_memory() -> None:
    """8 ranks of a node share 100 GB/s; the float32 sum of the gradients comes over and goes back in each of 4
    micro-batches, parameters go up once."""
    found = time_of(llama("sft", engine={"offload_optimizer": "cpu"}), "policy", "update", 8)
    states = SIZES.total / 8
    assert found.parts["host"] == pytest.approx(8 * 30 * states / 100e9 + (4 * 2 * 4 + 2) * states / 25e9, rel=1e-6)
    assert "GPU memory" not in found.parts


def test_parameters_on_the_host_come_over_twice_a_micro_batch() -> None:
    found = time_of(llama("sft", engine={"offload_parameters": "cpu"}), "policy", "update", 8)
    assert found.parts["host"] == pytest.approx(4 * 2 * 2 * SIZES.total / 8 / 25e9)


def test_checkpointing_and_float32_cost_what_they_should() -> None:
    plain = time_of(llama("sft"), "policy", "update", 8).parts["arithmetic"]
    again = time_of(llama("sft", gradient_checkpointing=True), "policy", "update", 8).parts["arithmetic"]
    wide = time_of(llama("sft", dtype="float32"), "policy", "update", 8).parts["arithmetic"]
    assert 1.2 < again / plain < 4 / 3
    assert wide == pytest.approx(16 * plain)


def test_generation_reads_all_weights_and_the_cache_for_every_token() -> None:
    """64 rows on one rank, 1,024 tokens: 16 GB of weights, 3 x 64 x 1,536 x 128 KiB of cache; or 25.6 ms."""
    found = time_of(llama("ppo"), "policy", "generate", 1)
    token = (2 * SIZES.total + 3 * 64 * 1536 * 128 * 1024) / MEMORY
    prompt = costs.forward_flops(SIZES, 64 * 1024, 1024, 64) / RATE
    assert found.parts["GPU memory"] == pytest.approx(1024 * token)
    assert found.parts["launches"] == pytest.approx(1024 * 32 * 0.8e-3)
    assert found.seconds == pytest.approx(1024 * max(token, 32 * 0.8e-3) + prompt)


def test_generation_from_shards_gathers_for_every_token() -> None:
    gathered = time_of(llama("ppo"), "policy", "generate", 8)
    sharded = time_of(llama("ppo", {"rollout.weights": "sharded"}), "policy", "generate", 8)
    once = costs.Ring(8, 360e9, 32.2e-6).seconds(2 * SIZES.total, costs.gather_calls(SIZES, 50_000_000))
    assert sharded.parts["links"] == pytest.approx(1024 * once)
    assert sharded.seconds > 1.5 * gathered.seconds
    assert time_of(llama("ppo", {"rollout.weights": "sharded"}), "policy", "sync weights", 8).seconds == 0


def test_rounds_of_generation_follow_each_other() -> None:
    one = time_of(llama("ppo"), "policy", "generate", 1)
    four = time_of(llama("ppo", {"rollout.max_batch_per_rank": 16}), "policy", "generate", 1)
    assert four.parts["launches"] == pytest.approx(4 * one.parts["launches"])


def test_weight_sync_gathers_and_copies() -> None:
    """16 GB in buckets of 256 MiB are 60 collectives; the copy reads and writes."""
    found = time_of(llama("ppo"), "policy", "sync weights", 8)
    volume = 2 * SIZES.total
    links = costs.Ring(8, 360e9, 32.2e-6).seconds(volume, -(-volume // 2**28))
    assert found.seconds == pytest.approx(links + 2 * volume / MEMORY)


def test_a_bootstrapped_value_is_read_twice() -> None:
    once = time_of(llama("ppo"), "value", "forward", 8)
    twice = time_of(llama("ppo", {"algorithm": {"kind": "ppo", "truncated": "bootstrap"}}), "value", "forward", 8)
    assert twice.seconds == pytest.approx(2 * once.seconds)


def test_faster_hardware_is_never_slower() -> None:
    def seconds(cluster: Any) -> float:
        timing = Timing(Roles(llama("sft"), SizeBook()), hardware_of(cluster, None))
        return timing.of("policy", "update", Place(16, 2)).seconds

    slow, fast = gpu_cluster(2, bandwidth_gbps=100.0), gpu_cluster(2, bandwidth_gbps=3200.0)
    assert seconds(fast) < seconds(slow)
