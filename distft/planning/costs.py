"""What single things cost: FLOPs of a pass, bytes and seconds of a collective, an optimizer step, a token.

Pure arithmetic on sizes and data-sheet rates. Sources: 2 FLOPs a parameter and token forward, twice that backward,
and attention's quadratic term (Kaplan et al. 2020, section 2.1; Chowdhery et al. 2022, appendix B); ZeRO's volumes
(Rajbhandari et al. 2020, section 7); the ring's steps (NCCL, src/graph/tuning.cc). *Assumption* marks what nobody
measured for us; what of a data sheet is really reached is in ``rates``.
"""

from __future__ import annotations

from dataclasses import dataclass

from distft.planning.hardware import Hardware
from distft.planning.model_sizes import ModelSizes, TensorTable
from distft.planning.rates import LINKS

# Seconds of a ring to start and for every step of it, by what the step goes over (NCCL, src/graph/tuning.cc,
# protocol Simple).
RING_START, STEP_NVLINK, STEP_PCIE, STEP_NETWORK = 8.4e-6, 3.4e-6, 5.7e-6, 9.6e-6
# Share of the shorter of arithmetic and communication that is hidden behind the longer. Assumption: DeepSpeed
# fetches ahead (overlap_comm is on at stage 3), the first layers of a pass wait.
HIDDEN = 0.8
# Times that the key-value cache is gone through for a token: read by attention, and read and written anew because
# transformers' cache is concatenated.
CACHE_PASSES = 3
# Parameters that DeepSpeed keeps gathered from forward to backward (stage3_max_live_parameters).
MAX_LIVE = 1_000_000_000


@dataclass(frozen=True)
class Ring:
    """The ranks of a group and what joins them: bytes/s in and out of one rank, seconds of one round."""

    ranks: int
    bandwidth: float
    latency: float

    def seconds(self, size: float, calls: int, *, rounds: int = 1) -> float:
        """All-gathers or reduce-scatters of ``size`` bytes in ``calls`` pieces; an all-reduce has two ``rounds``."""
        if self.ranks == 1:
            return 0.0
        return rounds * (size * (self.ranks - 1) / self.ranks / self.bandwidth + calls * self.latency)


def ring(hardware: Hardware, ranks: int, nodes: int) -> Ring | None:
    """The ring of ``ranks`` ranks on ``nodes`` nodes; None where the cluster file does not say what joins them.

    On several nodes a rank has its GPU's part of the node's network, if that is slower than the link to its
    neighbours.
    """
    if ranks == 1:
        return Ring(1, 0.0, 0.0)
    links = [hardware.rates.link] if hardware.gpus != 1 else []  # one GPU a node has no neighbours
    if nodes > 1 and hardware.gpus:
        links.append(LINKS * hardware.network * (ranks / nodes) / hardware.gpus)
    if not all(links):
        return None
    step = STEP_NVLINK if hardware.nvlink else STEP_PCIE
    latency = RING_START + (ranks - nodes) * step + (nodes - 1) * STEP_NETWORK
    return Ring(ranks, min(links), latency)


def forward_flops(sizes: ModelSizes, tokens: float, length: float, read: float) -> float:
    """FLOPs of a forward pass over ``tokens`` in rows of ``length``, of which ``read`` go through the head.

    Attention is counted in full, although causal kernels skip up to half of it.
    """
    head = sizes.vocab_head or sizes.hidden
    return tokens * (2 * sizes.active + attention_flops(sizes, length)) + 2 * head * read


def attention_flops(sizes: ModelSizes, length: float) -> float:
    """FLOPs of one token's scores and weighted sums over ``length`` positions in all layers, forward."""
    return 4 * sizes.layers * sizes.heads * sizes.head_dim * length


def training_flops(sizes: ModelSizes, tokens: float, length: float, read: float, *, checkpointing: bool) -> float:
    """Forward and backward; what is frozen has no gradient of its own, a third less, and nothing goes back from the
    first layer into a frozen embedding. With checkpointing the layers run forward once more, as far as the backward
    pass needs it: torch stops before the last product of each layer, the MLP's second, or its adapter's.
    """
    flops = 3 * forward_flops(sizes, tokens, length, read) - 2 * tokens * sizes.active_frozen
    if sizes.adapted:
        flops -= 2 * tokens * sizes.reads_embedding
    if sizes.adapted and sizes.vocab_head:
        flops -= 2 * sizes.vocab_head * read
    if not checkpointing:
        return flops
    last = 0 if sizes.adapted else 2 * sizes.layers * sizes.intermediate * sizes.hidden
    return flops + forward_flops(sizes, tokens, length, 0) - last * tokens


def gather_calls(sizes: TensorTable, bucket: int) -> int:
    """Collectives of one pass over these parameters: a tensor beyond a bucket by itself, the others filled together."""
    large = sum(tensors.count for tensors in sizes.tensors if tensors.packed >= bucket)
    rest = sum(tensors.packed * tensors.count for tensors in sizes.tensors if tensors.packed < bucket)
    return large + -(-rest // bucket)


def step_bytes(elements: int, size: int, states: float = 8) -> int:
    """Bytes that an optimizer step moves: master weights and ``states`` bytes for each (Adam's two moments: 8) in and
    out, gradients in, parameters out."""
    return int(elements * (2 * (4 + states) + 4 + size))


def cache_bytes(sizes: ModelSizes, rows: float, length: float, size: int) -> float:
    """Bytes of keys and values of ``rows`` sequences."""
    layers = sizes.layers // 2 if sizes.encoder_decoder else sizes.layers
    return 2 * layers * sizes.kv_heads * sizes.head_dim * rows * length * size


def overlapped(*seconds: float) -> float:
    """Things that go on at once: the longest, and of the others what cannot be hidden."""
    longest = max(seconds)
    return longest + (1 - HIDDEN) * (sum(seconds) - longest)
