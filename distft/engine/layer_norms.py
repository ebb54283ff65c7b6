"""Norms of gradients and weights by groups of layers, from what this rank holds alone: nothing is gathered, no rank is
waited for.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from distft.engine.layer_groups import layer_groups
from distft.engine.pieces import Piece, pieces_here

# What DeepSpeed, and torch, add to a norm before they clip by it.
_CLIP_EPS = 1e-6

_Norms: TypeAlias = tuple[list[int], Tensor]  # of pieces: the group of each, and float32 ``[num_pieces]``


@dataclass
class _Run:
    """Elements ``start`` to ``end`` of what the optimizer steps on, all of one group of layers."""

    owner: Tensor
    group: int
    start: int
    end: int

    @property
    def is_all(self) -> bool:
        return self.end - self.start == self.owner.numel()


class LayerNorms:
    """Of a trained engine's module. ``optimizer``: as DeepSpeed has it; ``ready``: called before weights are read.

    A number is the root of the sum of squares over this rank's part of a group: the norm itself at ZeRO stage 0, where
    every rank has all of it; at the others squares are to be added up over ranks.
    """

    def __init__(
        self, module: nn.Module, optimizer: Any, zero_stage: int, max_grad_norm: float, ready: Callable[[], None]
    ) -> None:
        groups = layer_groups(module)
        self.names = tuple(dict.fromkeys(groups.values()))
        self._runs: list[_Run] = []
        for piece in pieces_here(module, optimizer, zero_stage):
            self._add(piece, self.names.index(groups[piece.name]))
        self._max_grad_norm, self._ready = max_grad_norm, ready
        self._gradients: list[_Norms] = []
        # All of DeepSpeed's optimizers step by torch's own, at stage 3 one group of parameters after the other.
        getattr(optimizer, "optimizer", optimizer).register_step_pre_hook(self._see)

    def weights(self) -> dict[str, float]:
        """Of what the optimizer steps on: float32 at every precision."""
        self._ready()
        return self._by_group([_norms([(run, run.owner) for run in self._runs])])

    def take_gradients(self, norm: float) -> dict[str, float] | None:
        """Of the step just taken, before clipping; ``norm``: that of all gradients. None where no step was taken."""
        found, self._gradients = self._gradients, []
        if not found:
            return None
        unclipped = max(1.0, (norm + _CLIP_EPS) / self._max_grad_norm)
        return {name: value * unclipped for name, value in self._by_group(found).items()}

    def _see(self, stepping: torch.optim.Optimizer, *_: Any) -> None:
        """Before a step, when the gradients that it is taken with are where the optimizer reads them."""
        stepped_on = {id(tensor) for group in stepping.param_groups for tensor in group["params"]}
        found = [
            (run, run.owner.grad) for run in self._runs if id(run.owner) in stepped_on and run.owner.grad is not None
        ]
        self._gradients.append(_norms(found))

    def _add(self, piece: Piece, group: int) -> None:
        """Takes in a piece; neighbours of one group are one run, which takes less time."""
        last = self._runs[-1] if self._runs else None
        if last and last.owner is piece.owner and last.group == group and last.end == piece.offset:
            last.end += piece.length
        else:
            self._runs.append(_Run(piece.owner, group, piece.offset, piece.offset + piece.length))

    def _by_group(self, found: Sequence[_Norms]) -> dict[str, float]:
        squares = [0.0] * len(self.names)
        for groups, norms in found:
            for group, norm in zip(groups, norms.tolist(), strict=True):
                squares[group] += norm * norm
        return {name: math.sqrt(one) for name, one in zip(self.names, squares, strict=True)}


@torch.no_grad()
def _norms(tensors: Sequence[tuple[_Run, Tensor]]) -> _Norms:
    """Where the tensors are, so that nobody waits for them."""
    parts = [tensor if run.is_all else tensor.view(-1)[run.start : run.end] for run, tensor in tensors]
    found = torch.stack(torch._foreach_norm(parts)) if parts else torch.zeros(0)
    return [run.group for run, _ in tensors], found
