"""Where a rank keeps the numbers of each trained parameter: the one place that knows DeepSpeed's flat buffers.

A piece is a run of elements of one flattened parameter. What the optimizer steps on, its ``owner``, holds it from an
offset on, and so does every state that the optimizer keeps of its owner.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


@dataclass(frozen=True)
class Piece:
    """Elements ``start`` to ``start + length`` of the parameter ``name``, in its owner from ``offset`` on; ``shape``:
    the parameter's, whole."""

    name: str
    shape: torch.Size
    start: int
    length: int
    owner: Tensor
    offset: int

    def of(self, tensor: Tensor) -> Tensor:
        """The piece's view of its owner, or of a state of the same shape."""
        return tensor.detach().view(-1).narrow(0, self.offset, self.length)

    def part(self, rank: int, num_ranks: int) -> Piece:
        """The rank's part of a piece that all of them hold."""
        first, last = (self.length * number // num_ranks for number in (rank, rank + 1))
        return self._from(first, last - first)

    def within(self, offset: int, length: int) -> Piece:
        """The part that lies in a run of its owner; of a length below 1 where none does."""
        first = max(self.offset, offset)
        last = min(self.offset + self.length, offset + length)
        return self._from(first - self.offset, last - first)

    def _from(self, first: int, length: int) -> Piece:
        return Piece(self.name, self.shape, self.start + first, length, self.owner, self.offset + first)


def pieces_here(module: nn.Module, optimizer: Any, zero_stage: int) -> list[Piece]:
    """The pieces on this rank: of everything that is trained at stage 0, else those of its shards."""
    return [piece for piece in pieces_anywhere(module, optimizer, zero_stage) if piece.length]


def pieces_anywhere(module: nn.Module, optimizer: Any, zero_stage: int) -> list[Piece]:
    """Those, and in the same order on all ranks a piece of no length for each parameter that this one has none of."""
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    found = {0: _replicated, 1: _flat, 2: _flat, 3: _sharded}[zero_stage](module, optimizer)
    return [
        Piece(names[id(parameter)], getattr(parameter, "ds_shape", parameter.shape), start, max(0, length), owner, at)
        for parameter, start, length, owner, at in found
    ]


_Found = Iterator[tuple[Any, int, int, Tensor, int]]


def _replicated(module: nn.Module, optimizer: Any) -> _Found:
    if not hasattr(optimizer, "fp32_groups"):  # a bare optimizer, which steps on the parameters themselves
        yield from ((p, 0, p.numel(), p, 0) for p in module.parameters() if p.requires_grad)
        return
    for weights, masters in zip(optimizer.fp16_groups, optimizer.fp32_groups, strict=True):
        yield from ((p, 0, p.numel(), master, 0) for p, master in zip(weights, masters, strict=True))


def _flat(_: nn.Module, optimizer: Any) -> _Found:
    """Each group is one flat buffer, cut into equal parts: a parameter may lie in two of them."""
    groups = zip(
        optimizer.round_robin_bit16_groups, optimizer.round_robin_bit16_offsets,
        optimizer.single_partition_of_fp32_groups, strict=True,
    )  # fmt: skip
    for parameters, offsets, owner in groups:
        first = dist.get_rank() * owner.numel()
        last = first + owner.numel()
        for parameter, offset in zip(parameters, offsets, strict=True):
            begin, end = max(offset, first), min(offset + parameter.numel(), last)
            yield parameter, begin - offset, end - begin, owner, begin - first


def _sharded(_: nn.Module, optimizer: Any) -> _Found:
    """Each parameter is cut into equal parts, the last one padded; a rank's parts lie one after the other."""
    for parameters, owner in zip(optimizer.fp16_groups, optimizer.fp32_partitioned_groups_flat, strict=True):
        offset = 0
        for parameter in parameters:
            size = int(parameter.ds_tensor.ds_numel)
            start = dist.get_rank() * size
            yield parameter, start, min(size, int(parameter.ds_numel) - start), owner, offset
            offset += size
