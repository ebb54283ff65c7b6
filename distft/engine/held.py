"""How much of a model one rank really holds, asked of the tensors themselves."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from distft.engine.asleep import Fate
from distft.engine.secondary import second_shards
from distft.models.quantization import constants_of


@dataclass(frozen=True)
class Held:
    """Elements of one kind each on this rank, and the bytes of the tensors that are there at this moment."""

    parameters: int
    gradients: int
    optimizer: int
    bytes: dict[str, int] = field(default_factory=dict)


def bytes_now(parameters: Sequence[nn.Parameter], optimizer: Any = None) -> dict[str, int]:
    """Bytes of storage by kind, each storage counted once: what the plan calls parameters, gradients, ...

    At stages 0 to 2 gradients are there from a backward pass to the step only.
    """
    counted: set[int] = set()

    def count(tensors: Iterable[Tensor | None]) -> int:
        found = 0
        for tensor in tensors:
            storage = None if tensor is None else tensor.untyped_storage()
            if storage is not None and storage.nbytes() and storage.data_ptr() not in counted:
                counted.add(storage.data_ptr())
                found += storage.nbytes()
        return found

    shards = (getattr(parameter, "ds_tensor", None) for parameter in parameters)
    found = {"parameters": count(p.data for p in parameters) + count(shards)}
    if second := count(parameter.ds_secondary_tensor for parameter in second_shards(parameters)):
        found["second shards"] = second
    if constants := count(tensor for parameter in parameters for tensor in constants_of(parameter)):
        found["quantization constants"] = constants
    if optimizer is None:
        return found
    masters = list(_master_weights(optimizer))
    summed = (getattr(parameter, "grad_accum", None) for parameter in parameters)
    found["gradients"] = count(p.grad for p in parameters) + count(summed) + count(_kept_gradients(optimizer))
    found["master weights"] = count(masters)
    found["float32 gradients"] = count(master.grad for master in masters)
    found["optimizer states"] = count(optimizer_tensors(optimizer))
    return found


def held_tensors(
    parameters: Iterable[nn.Parameter], buffers: Iterable[Tensor], optimizer: Any = None
) -> Iterator[tuple[Tensor, Fate]]:
    """All tensors of a model on this rank, and what becomes of each in a sleep; several may lie in one storage."""
    for parameter in parameters:
        fate: Fate = "changing" if parameter.requires_grad else "frozen"
        yield parameter.data, fate
        if (shard := getattr(parameter, "ds_tensor", None)) is not None:
            yield shard, fate
        yield from ((tensor, "frozen") for tensor in constants_of(parameter))
        gradients = (parameter.grad, getattr(parameter, "grad_accum", None))
        yield from ((gradient, "gradient") for gradient in gradients if gradient is not None)
    yield from ((buffer, "changing") for buffer in buffers)
    if optimizer is None:
        return
    masters = list(_master_weights(optimizer))
    yield from ((master, "state") for master in masters)
    yield from ((master.grad, "gradient") for master in masters if master.grad is not None)
    yield from ((tensor, "gradient") for tensor in _kept_gradients(optimizer) if tensor is not None)
    yield from ((tensor, "state") for tensor in optimizer_tensors(optimizer))


def _master_weights(optimizer: Any) -> Iterator[Tensor]:
    """The float32 copies; where there are none, nothing (a bare optimizer steps on the parameters themselves)."""
    for name in ("fp32_partitioned_groups_flat", "single_partition_of_fp32_groups", "fp32_groups"):
        for group in getattr(optimizer, name, ()):
            yield from group if isinstance(group, (list, tuple)) else [group]


def _kept_gradients(optimizer: Any) -> Iterator[Tensor]:
    """Gradients outside the parameters' own ``grad``: partitions (stage 3), whole tensors of a partition (stage 2)."""
    for name in ("_DeepSpeedZeroOptimizer_Stage3__param_id_to_grad_partition", "accumulated_grads_in_cpu"):
        yield from getattr(optimizer, name, {}).values()
    for name in ("all_grad_tensors", "averaged_gradients"):
        for tensors in getattr(optimizer, name, {}).values():
            yield from tensors or ()


def parameter_elements(parameters: Iterable[nn.Parameter]) -> int:
    """Elements of parameters on this rank: shards, and whatever is whole now besides its shard.

    Under ZeRO-3 a parameter's own tensor is empty unless it is gathered or too small to be sharded.
    """
    return sum(p.numel() + (p.ds_tensor.numel() if hasattr(p, "ds_tensor") else 0) for p in parameters)


def gradient_elements(optimizer: Any, module: nn.Module, stage: int) -> int:
    """Elements of gradients that this rank keeps from one micro-batch to the next.

    They are freed by each step, so they are counted as the buffers they live in: stage 1 shards the
    optimizer's state but keeps whole gradients.
    """
    if stage == 3:
        partitions = optimizer._DeepSpeedZeroOptimizer_Stage3__param_id_to_grad_partition
        return sum(partition.numel() for partition in partitions.values())
    if stage == 2:
        return sum(int(size) for size in optimizer.partition_size)
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


def optimizer_elements(optimizer: Any) -> int:
    """Elements of optimizer state on this rank, step counters aside; 0 before the first step."""
    return sum(tensor.numel() for tensor in optimizer_tensors(optimizer))


def optimizer_tensors(optimizer: Any) -> Iterator[Tensor]:
    """The tensors of the optimizer's state on this rank, step counters aside."""
    inner = getattr(optimizer, "optimizer", optimizer)
    for state in inner.state.values():
        for name, value in state.items():
            if name != "step" and torch.is_tensor(value):
                yield value
