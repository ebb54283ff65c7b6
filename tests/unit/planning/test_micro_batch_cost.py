from __future__ import annotations

from typing import Literal

import pytest

from distft.config.cluster import load_cluster
from distft.config.models import Engine
from distft.planning.micro_batch_cost import (
    CPU_GATHERED_TOKENS,
    CPU_SHARDED_TOKENS,
    CPU_TOKENS,
    GPU_TOKENS,
    micro_batch_cost,
)


@pytest.mark.parametrize(
    ("stage", "nodes", "tokens"),
    [(3, [0], CPU_SHARDED_TOKENS), (3, [0, 0], CPU_GATHERED_TOKENS), (2, [0, 0], CPU_TOKENS), (0, [0], CPU_TOKENS)],
)
def test_on_cpus_by_stage_and_ranks(stage: Literal[0, 2, 3], nodes: list[int], tokens: int) -> None:
    assert micro_batch_cost(load_cluster("local"), Engine(zero_stage=stage), gpus=0, nodes=nodes) == tokens


def test_on_gpus_by_the_slowest_link() -> None:
    """H100 by hand: 0.4 x 989 TFLOP/s over 450 GB/s of NVLink, or over 3,200 Gbit/s / 8 bits / 8 GPUs = 50 GB/s."""
    cluster = load_cluster("slurm-h100")
    engine = Engine(zero_stage=3)
    assert micro_batch_cost(cluster, engine, gpus=8, nodes=[0] * 8) == GPU_TOKENS + 879
    assert micro_batch_cost(cluster, engine, gpus=8, nodes=[0] * 8 + [1] * 8) == GPU_TOKENS + 7912
    assert micro_batch_cost(cluster, engine, gpus=8, nodes=[0]) == GPU_TOKENS
    assert micro_batch_cost(cluster, Engine(zero_stage=2), gpus=8, nodes=[0, 1]) == GPU_TOKENS


def test_hardware_that_is_not_described_has_no_cost() -> None:
    assert micro_batch_cost(load_cluster("local"), Engine(zero_stage=3), gpus=4, nodes=[0, 0]) is None
    one_node = load_cluster("one-node-8xh100")
    assert micro_batch_cost(one_node, Engine(zero_stage=3), gpus=8, nodes=[0, 1]) is None


def test_one_gpu_a_node_needs_no_link_to_a_neighbour() -> None:
    shipped = load_cluster("slurm-h100")
    assert shipped.node.gpu is not None
    gpu = shipped.node.gpu.model_copy(update={"interconnect_gbs": None})
    cluster = shipped.model_copy(update={"node": shipped.node.model_copy(update={"gpu": gpu})})
    engine = Engine(zero_stage=3)
    assert micro_batch_cost(cluster, engine, gpus=1, nodes=[0]) == GPU_TOKENS
    over_the_network = round(0.4 * 989e3 / 400)  # TFLOP/s and GB/s
    assert micro_batch_cost(cluster, engine, gpus=1, nodes=[0, 1]) == GPU_TOKENS + over_the_network
    assert micro_batch_cost(cluster, engine, gpus=2, nodes=[0, 0]) is None
