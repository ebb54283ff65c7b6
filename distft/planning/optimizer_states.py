"""What a role's optimizer keeps and does beside the weights that it trains, by its own declaration."""

from __future__ import annotations

import math

from distft.config.optimizers.adafactor import Adafactor
from distft.config.optimizers.muon import ITERATIONS, Muon, makes_orthogonal
from distft.config.optimizers.optimizer import Optimizer
from distft.planning.model_sizes import TensorTable

# Of a matrix that is made orthogonal, in float32: itself, as it is computed with, its square, and two products.
_COPIES = 5


def state_bytes(optimizer: Optimizer, trained: TensorTable) -> float:
    """Bytes in memory for one weight, in the mean."""
    return _mean(optimizer, trained, kept=False)


def kept_bytes(optimizer: Optimizer, trained: TensorTable) -> float:
    """Bytes in a checkpoint for one weight, in the mean."""
    return _mean(optimizer, trained, kept=True)


def _mean(optimizer: Optimizer, trained: TensorTable, *, kept: bool) -> float:
    total = 0.0
    for one in trained.tensors:
        states = optimizer.states_beside(one.shape, in_layers=one.block == "layers")
        for state in states:
            size = state.kept_bytes if kept else state.bytes
            total += one.count * math.prod(state.shape(one.shape)) * size
    return total / trained.total


def made_orthogonal(optimizer: Optimizer, trained: TensorTable) -> TensorTable:
    """The matrices that Muon makes orthogonal."""
    if not isinstance(optimizer, Muon):
        return TensorTable(())
    return TensorTable(
        tuple(one for one in trained.tensors if makes_orthogonal(one.shape, in_layers=one.block == "layers"))
    )


def orthogonal_bytes(matrices: TensorTable, ranks: int) -> int:
    """Bytes that a rank holds while they are: as many put together as ``ranks`` have parts of, one computed."""
    largest = max((one.numel for one in matrices.tensors), default=0)
    return 4 * largest * ((ranks if ranks > 1 else 0) + _COPIES)


def update_bytes(optimizer: Optimizer, trained: TensorTable) -> int:
    """Bytes of an update as large as the largest tensor, which Adafactor computes whole; other rules write it in the
    place of the gradient, or chunk by chunk."""
    return 4 * trained.largest if isinstance(optimizer, Adafactor) else 0


def orthogonal_flops(matrices: TensorTable) -> int:
    """Operations: of r rows and c columns, r the fewer, three products of 2 r r c, 2 r r r and 2 r r c each time."""
    found = 0
    for one in matrices.tensors:
        few, many = sorted(one.shape[-2:])
        found += one.count * math.prod(one.shape[:-2]) * ITERATIONS * (4 * few * few * many + 2 * few**3)
    return found
