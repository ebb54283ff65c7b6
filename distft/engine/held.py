"""How much of a model one rank really holds, asked of the tensors themselves."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Held:
    """Elements of one kind each on this rank."""

    parameters: int
    gradients: int
    optimizer: int


def parameter_elements(module: nn.Module) -> int:
    """Elements of parameters on this rank: shards, and whatever is whole now besides its shard.

    Under ZeRO-3 a parameter's own tensor is empty unless it is gathered or too small to be sharded.
    """
    return sum(p.numel() + (p.ds_tensor.numel() if hasattr(p, "ds_tensor") else 0) for p in module.parameters())


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
