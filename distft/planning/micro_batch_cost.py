"""What one more micro-batch costs a group, in tokens that could be computed in the same time.

The schedule weighs it against padding. A micro-batch has the weights read again, which a few rows do not keep
busy; at ZeRO stage 3 over several ranks it also has them gathered for the forward and for the backward pass and
the gradients scattered, 3 x 2 bytes a parameter in bfloat16, in whose time 6 FLOP a parameter and token could be
computed: ``FLOP/s over bytes/s`` tokens, whatever the model's size.
"""

from __future__ import annotations

from collections.abc import Sequence

from distft.config.cluster import Cluster
from distft.config.models import Engine

# Share of a GPU's peak that training reaches: an assumption, as large models are commonly reported at 0.35 to 0.5.
EFFICIENCY = 0.4
# Tokens below which a GPU's matrix products wait for memory: peak FLOP/s over bandwidth is some hundreds, twice.
GPU_TOKENS = 1024
# Measured on two cores with a 25 M Llama in bfloat16 (2026-11-22): a line through the seconds of 64 to 2,048
# tokens, forward and backward, meets zero tokens at 60 to 100 tokens' worth at stage 0 and at 250 at stage 3 on
# one rank (which offload asks for); SFT steps of eight rows were fastest with 64 of 64, 96 and 128.
CPU_TOKENS = 64
CPU_SHARDED_TOKENS = 256
# Over gloo the same 3 x 2 bytes a parameter at about 1 GB/s beside 0.25 TFLOP/s.
CPU_GATHERED_TOKENS = 512


def micro_batch_cost(cluster: Cluster, engine: Engine, *, gpus: int, nodes: Sequence[int]) -> int | None:
    """Tokens; None where the hardware is not described, which leaves as few micro-batches as there can be.

    ``nodes``: the node of each of the group's ranks; ``gpus`` of a node, 0 on a CPU cluster.
    """
    sharded = engine.zero_stage == 3
    if not gpus:
        if not sharded:
            return CPU_TOKENS
        return CPU_GATHERED_TOKENS if len(nodes) > 1 else CPU_SHARDED_TOKENS
    if not sharded or len(nodes) == 1:
        return GPU_TOKENS
    gpu, network = cluster.node.gpu, cluster.network.bandwidth_gbps
    if gpu is None:
        return None
    links: list[float | None] = []  # GB/s of a GPU in one direction
    if gpus > 1:
        links.append(gpu.interconnect_gbs and gpu.interconnect_gbs / 2)
    if len(set(nodes)) > 1:
        links.append(network and network / 8 / gpus)
    known = [link for link in links if link]
    if len(known) < len(links):
        return None
    return GPU_TOKENS + round(EFFICIENCY * gpu.bf16_tflops * 1e3 / min(known))
