"""Bytes that one rank of a role holds, item by item. Pure arithmetic on sizes; nothing is measured here.

Every item says where it lies (``device``: the GPU, or the node's memory on CPU clusters; ``host``) and *when*
it is held, so that a peak is not the sum of things that never meet. Sources: Rajbhandari et al. 2020 (ZeRO,
sections 3 and 5) for states, Korthikanti et al. 2022 (section 4) for activations, DeepSpeed 0.19.8 for what
it really holds beyond the papers. Measured at stage 3 with Adam: 20.2 bytes a parameter in float32 (4
parameters, 4 gradients, 4 master, 8 Adam), 18.1 in bfloat16 (2 + 4 + 4 + 8): gradients are added up in float32.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, TypeAlias

from distft.config.models import Engine
from distft.planning.model_sizes import ModelSizes

When: TypeAlias = Literal["always", "loading", "generation", "forward", "training", "step"]
PHASES: tuple[When, ...] = ("loading", "generation", "forward", "training", "step")
Place: TypeAlias = Literal["device", "host"]

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
# DeepSpeed's defaults (stage3_max_live_parameters, sub_group_size), elements.
MAX_LIVE_PARAMETERS = 1_000_000_000
SUB_GROUP = 1_000_000_000
# Elements of a chunk in which float32 log-probabilities are computed (algorithms.logprobs), CPU and GPU.
CHUNK_CPU = 2**18
CHUNK_GPU = 2**25
# Logits that exist at once where the head is fused with them (algorithms.linear_logprobs).
HEAD_CHUNK_CPU = 2**22
HEAD_CHUNK_GPU = 2**26
# Page-locked host memory is taken in pieces of this size (engine.asleep).
HOST_CHUNK = 64 * 2**20
# A process that has imported torch, transformers, DeepSpeed and Ray (383 MiB resident when measured, before any
# thread of theirs runs); on a GPU its CUDA context, cuBLAS and NCCL.
PROCESS_HOST = 450 * 2**20
PROCESS_HOST_GPU = 2500 * 2**20
PROCESS_GPU = 1200 * 2**20
ROUNDED_UP = "page-locked memory rounded up"
LOADED = "whole model while it is loaded"
# Share of all else that the allocator loses to fragments.
FRAGMENTATION = 0.04


@dataclass(frozen=True)
class Item:
    """Bytes of one kind on one rank."""

    name: str
    bytes: int
    when: When = "always"
    place: Place = "device"


@dataclass(frozen=True)
class Generation:
    """What a rank generates at once: ``batch`` rows of ``length`` tokens, from a ``gathered`` twin or from shards."""

    batch: int
    length: int
    gathered: bool


@dataclass(frozen=True)
class Work:
    """What one rank of a role does.

    ``tokens`` of a micro-batch (padding included) in rows of ``length``; log-probabilities are computed at
    ``read`` of them. ``scalar``: one number a token is read, no vocabulary. Of packed samples,
    ``masked``: a mask of the whole row keeps them apart; ``parted``: attention looks at one after the other.
    """

    tokens: int
    length: int
    read: int
    scalar: bool
    generation: Generation | None = None
    masked: bool = False
    parted: bool = False


@dataclass(frozen=True)
class Compute:
    """How a role computes, and on what. ``fused``: its head with the log-probabilities, where that saves logits;
    ``liger``: its layers by Liger's kernels. ``state_bytes``: what the optimizer keeps beside a weight, of Adam 8.
    """

    dtype: str
    trained: bool
    state_bytes: float
    checkpointing: bool
    eager_attention: bool
    gpu: bool
    fused: bool = False
    liger: bool = False

    @property
    def size(self) -> int:
        """Bytes of an element."""
        return BYTES[self.dtype]


def rank_items(
    sizes: ModelSizes, engine: Engine, compute: Compute, work: Work, ranks: int, more: Iterable[Item] = (), *,
    lent: bool = False,
) -> list[Item]:  # fmt: skip
    """All items of one rank of a role and what the method adds to them (``more``), those of 0 bytes left out. ``lent``:
    its base and its process are another role's."""
    items = [
        *state_items(sizes.beside_base() if lent else sizes, engine, compute, ranks),
        *buffer_items(sizes, engine, compute, ranks),
        *activation_items(sizes, compute, work),
        *_generation_items(sizes, compute, work, ranks),
        *more,
    ]
    held = [] if lent else [Item("process", PROCESS_HOST)]
    if held and compute.gpu:
        held = [Item("process", PROCESS_GPU), Item("process", PROCESS_HOST_GPU, place="host")]
    slack = int(FRAGMENTATION * peak(items, "device"))
    return [item for item in (*items, Item("fragmentation allowance", slack), *held) if item.bytes > 0]


def state_items(sizes: ModelSizes, engine: Engine, compute: Compute, ranks: int) -> list[Item]:
    """Parameters, gradients, master weights and optimizer states (ZeRO, section 5), as DeepSpeed holds them.

    Stage 1 shards optimizer states and master weights, 2 gradients too, 3 parameters too (there every tensor is
    cut by itself and padded). DeepSpeed keeps a float32 master copy from stage 1 on even when the parameters are
    float32, and gradients wait in float32 whatever the parameters are. A frozen role has parameters only, a role with
    adapters the other items of what it trains. Offloaded states lie in host memory, but for gradients of fewer bits,
    which stages 1 and 2 add up on the device. What is quantized every rank reads tensor by tensor, each whole
    until it is cut; what is not sharded comes to its GPU by way of host memory.
    """
    stage, size = engine.zero_stage, compute.size
    parameters = sizes.stored(size, ranks if stage == 3 else 1)
    home: Place = "host" if engine.offload_parameters == "cpu" and stage == 3 else "device"
    items = [Item("parameters", parameters, place=home)]
    if stage == 3 and ranks > 1:
        items.append(Item("small parameters kept whole", sizes.small(engine.persistence_threshold, size)))
        if engine.hpz_partition_size > 1:
            items.append(Item("second shards", sizes.stored(size, engine.hpz_partition_size)))
    if held := held_beside(sizes, compute):
        items.append(Item("held beside adapters", held))
    if sizes.constants:
        items.append(Item("quantization constants", sizes.constants))
        if stage == 3:
            items.append(Item("largest tensor until it is cut", size * sizes.largest, "loading"))
    elif compute.gpu and stage < 3:
        items.append(Item(LOADED, sizes.stored(size), "loading", "host"))
    if not compute.trained:
        return items
    trained = sizes.trained
    padded = trained.shard(ranks) if stage == 3 else -(-trained.total // ranks)
    offloaded = engine.offload_optimizer == "cpu" and stage >= 1
    away: Place = "host" if offloaded else "device"
    states = padded if stage >= 1 else trained.total
    summed: Place = away if stage == 3 or (stage == 2 and size == 4) else "device"
    items.append(Item("gradients", 4 * (padded if stage >= 2 else trained.total), place=summed))
    if stage == 2 and ranks > 1 and size == 4:  # one that a boundary between two ranks cuts is kept whole by both
        items.append(Item("gradients cut by a boundary", 4 * trained.largest, place=away))
    if stage >= 1 or size < 4:
        items.append(Item("master weights", 4 * states, place=away))
    items.append(Item("optimizer states", int(compute.state_bytes * states), place=away))
    if offloaded:
        items += _offload_items(trained.largest, stage, size, states)
        items += _page_locked(items, gpu=compute.gpu)
    if size < 4 and stage == 1:
        items.append(Item("this rank's part of the gradients", 4 * states, "step"))
    elif size < 4 and stage == 3 and not offloaded:
        items.append(Item("gradients as one tensor", 4 * min(states, SUB_GROUP), "step"))
    return items


def _offload_items(largest: int, stage: int, size: int, states: int) -> list[Item]:
    """What DeepSpeed 0.19 keeps besides for an optimizer on the host: the gradients once more, as the optimizer
    reads them; at stages 1 and 2 the parameters on their way back, and room for the largest gradient on both sides.
    """
    items = [Item("float32 gradients", 4 * states, place="host")]
    if stage < 3:
        items.append(Item("parameters on their way", size * states, place="host"))
        items.append(Item("largest gradient on its way", size * largest, place="host"))
        items.append(Item("largest gradient on its way", size * largest))
    return items


def _page_locked(items: Iterable[Item], *, gpu: bool) -> list[Item]:
    """What is page-locked for transfers torch rounds up to a power of two; an upper limit, not measured."""
    locked = [item.bytes for item in items if item.place == "host" and item.name != "optimizer states" and item.bytes]
    return (
        [Item(ROUNDED_UP, sum((1 << (size - 1).bit_length()) - size for size in locked), place="host")] if gpu else []
    )


def buffer_items(sizes: ModelSizes, engine: Engine, compute: Compute, ranks: int) -> list[Item]:
    """What collectives need besides: gathered parameters and their prefetch (stage 3), the reduce bucket.

    Trained, DeepSpeed keeps up to ``stage3_max_live_parameters`` gathered because the backward pass wants
    them again; frozen, one layer and what is fetched ahead. On CPUs only pages that are touched count.
    One rank has a stage above 0 for offload's sake only: it gathers what waits in host memory, and has the buckets.
    """
    if ranks == 1 and engine.zero_stage == 0:
        return []
    size, bucket = compute.size, engine.reduce_bucket_size
    items = []
    if engine.zero_stage == 3 and (ranks > 1 or engine.offload_parameters == "cpu"):
        small = sizes.small(engine.persistence_threshold, size)
        when: When = "training" if compute.trained else "forward"
        if compute.trained:
            live = min(sizes.packed, MAX_LIVE_PARAMETERS + bucket)
            gathered = sizes.stored(size) * live // sizes.packed
        else:
            gathered = min(sizes.stored(size), sizes.stored_at_once(size) + bucket * size)
        items.append(Item("gathered parameters", max(0, gathered - small), when))
    if compute.trained:
        whole = bucket if compute.gpu else min(bucket, sizes.trained.total)
        items.append(Item("reduce bucket", whole * (size if engine.zero_stage >= 2 else 4), "training"))
        if engine.zero_stage == 3 and size < 4:
            items.append(Item("reduced gradients in float32", 4 * -(-whole // ranks), "training"))
    return items


def activation_items(sizes: ModelSizes, compute: Compute, work: Work) -> list[Item]:
    """What forward and backward hold of one micro-batch.

    A layer keeps per token, in elements of the model's dtype (Korthikanti et al. 2022, section 4.1, for
    grouped heads and a gated MLP; measured on an H100 to the byte): 2 x 2 hidden for inputs of norms and linears,
    q, k, v and the attention's output, which the next linear reads, and 4 (gated) or 2 x intermediate in the MLP; and
    2 x hidden in float32, which the norms upcast to. Liger's kernels keep neither that nor the gate's activation.
    Attention without a fused kernel adds its matrices. Backward, the gradients of the MLP's halves come on top. With
    checkpointing, each layer's input and one layer's share. Frozen: one layer's share.
    Adapters keep what their kind says (``config.adapters``); what is quantized is unpacked into a
    whole matrix, one at a time. Log-probabilities: logits at the tokens read, in the model's dtype, with their gradient
    when trained, and a float32 chunk of them; of a fused head a chunk of all that (algorithms.linear_logprobs). A
    scalar head reads its input in float32.
    """
    layer = work.tokens * _per_token(sizes, compute, work)
    if not compute.trained:
        kept = layer
    else:
        rows = sizes.layers * work.tokens * sizes.hidden * compute.size + layer
        last_norm = work.tokens * sizes.hidden * (2 * compute.size + (0 if compute.liger else 4))
        passing = work.tokens * compute.size * (2 * sizes.intermediate + sizes.hidden)
        kept = (rows if compute.checkpointing else sizes.layers * layer) + last_norm + passing
    when: When = "training" if compute.trained else "forward"
    items = [Item("activations", kept, when), *_of_a_matrix(sizes, compute, when)]
    if work.masked:  # of booleans, and in the model's dtype as it is added
        items.append(Item("mask of a packed row", work.length**2 * (1 + compute.size), when))
    if work.scalar:
        head = 4 * work.read * sizes.hidden
        return [*items, Item("float32 input of the head", head * (2 if compute.trained else 1), when)]
    if head := fused_chunk(sizes, work.read, gpu=compute.gpu, fused=compute.fused):
        if compute.trained:
            # On a GPU the products alone, which their gradient replaces; else probabilities and their logarithms in
            # float32 beside them. And the states' gradient: a chunk's share, the sum, and the sum once it is rounded.
            beside = 0 if compute.gpu else 8 + (compute.size if compute.size < 4 else 0) - compute.size
            held = head * (compute.size + beside) + (4 + 2 * compute.size) * work.read * sizes.hidden
            return [*items, Item("logits of a chunk", held, when)]
        items.append(Item("logits of a chunk", head * compute.size, when))
        if compute.gpu:
            return items
    else:
        logits = work.read * sizes.vocab * compute.size
        items.append(Item("logits", logits * (2 if compute.trained else 1), when))
    chunk = min(work.read * sizes.vocab, CHUNK_GPU if compute.gpu else CHUNK_CPU)
    items.append(Item("float32 logits chunk", 2 * 4 * chunk, when))
    return items


def fused_chunk(sizes: ModelSizes, read: float, *, gpu: bool, fused: bool) -> int:
    """Logits that exist at once where they never do all together; 0 where they do: they are few, or not fused."""
    chunk = HEAD_CHUNK_GPU if gpu else HEAD_CHUNK_CPU
    return chunk if fused and not sizes.encoder_decoder and read * sizes.vocab > chunk else 0


def _of_a_matrix(sizes: ModelSizes, compute: Compute, when: When) -> list[Item]:
    """The largest quantized matrix, whole for as long as it is multiplied with, and what an adapter computes of one."""
    numel = max((tensors.numel for tensors in sizes.tensors if tensors.bits is not None), default=0)
    items = [("matrix unpacked from fewer bits", numel), ("an adapter's own matrices", sizes.passing_of_adapters)]
    return [Item(name, elements * compute.size, when) for name, elements in items if elements]


def held_beside(sizes: ModelSizes, compute: Compute) -> int:
    """Bytes of what adapters hold that is not trained, whole on every rank and in every checkpoint."""
    return compute.size * sizes.held_by_adapters


def copy_of_checkpoint(sharded: int, buffers: int, ranks: int, *, gpu: bool) -> Item:
    """The first rank's part of a checkpoint in host memory while it is written beside the steps: a share of ``sharded``
    bytes, and all of the ``buffers``."""
    size = -(-sharded // ranks) + buffers
    return Item("copy of a checkpoint", -(-size // HOST_CHUNK) * HOST_CHUNK if gpu else size, place="host")


def copies_in_memory(sharded: int, buffers: int, ranks: int, *, nodes: int) -> Item:
    """What the nodes keep of a rank's states between steps: the copy that is whole and the one in the making, of the
    first rank's part as in ``copy_of_checkpoint``; on several nodes as much for a rank of the node before."""
    size = -(-sharded // ranks) + buffers
    return Item("copies in memory", size * (2 if nodes == 1 else 4), place="host")


def peak(items: Iterable[Item], place: Place) -> int:
    """The most that is held at once: what is always there and the largest phase."""
    items = [item for item in items if item.place == place]
    phases = (sum(item.bytes for item in items if item.when == when) for when in PHASES)
    return at_rest(items, place) + max(phases)


def at_rest(items: Iterable[Item], place: Place) -> int:
    """What is always held."""
    return sum(item.bytes for item in items if item.place == place and item.when == "always")


def _per_token(sizes: ModelSizes, compute: Compute, work: Work) -> int:
    size, attention, mlp = compute.size, sizes.heads * sizes.head_dim, (4 if sizes.gated else 2) * sizes.intermediate
    kept = size * (4 * sizes.hidden + mlp) + 4 * 2 * sizes.hidden
    if compute.liger:
        kept -= size * sizes.intermediate * sizes.gated + 4 * 2 * sizes.hidden
    if compute.eager_attention:
        kept += size * 5 * attention + sizes.heads * work.length * (2 * size + 4)
    elif not compute.gpu:
        kept += size * 5 * attention
    elif size == 4 and sizes.kv_heads < sizes.heads:  # no kernel of torch's takes grouped heads in float32
        kept += size * (4 * attention + sizes.heads * work.length)
    else:
        kept += size * 2 * (attention + sizes.kv_heads * sizes.head_dim) + 4 * sizes.heads
    if work.parted:  # what each sample's attention answers, and all of it in one
        kept += size * attention
    elements, single = sizes.kept_by_adapters if compute.trained else (0, 0)
    beside = elements * size + single
    return kept + beside // max(1, sizes.layers)


def _generation_items(sizes: ModelSizes, compute: Compute, work: Work, ranks: int) -> list[Item]:
    """The unsharded twin that generates, its key-value cache, and the last position's logits."""
    if work.generation is None:
        return []
    generation, size = work.generation, compute.size
    decoder_layers = sizes.layers // 2 if sizes.encoder_decoder else sizes.layers
    cache = 2 * decoder_layers * sizes.kv_heads * sizes.head_dim * generation.batch * generation.length * size
    items = [
        Item("key-value cache", cache, "generation"),
        Item("next-token logits", 3 * generation.batch * sizes.vocab * 4, "generation"),
        *_of_a_matrix(sizes, compute, "generation"),
    ]
    if generation.gathered:
        items.append(Item("generation twin", sizes.stored(size) + held_beside(sizes, compute)))
    elif ranks > 1:
        items.append(Item("gathered layers", 2 * sizes.stored_at_once(size), "generation"))
    return items
