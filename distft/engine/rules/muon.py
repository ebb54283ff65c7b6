"""Muon: the momentum of a matrix made orthogonal."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.optim.adamw import adamw

from distft.config.optimizers.muon import ITERATIONS
from distft.engine.pieces import Piece
from distft.engine.process_group import accelerator

# Of the polynomial a x + b x^3 + c x^5 that pulls singular values towards 1 (Jordan et al. 2024).
A, B, C = 3.4445, -4.7750, 2.0315
# Root mean square of AdamW's updates, as Liu et al. (2025) found it.
USUAL_SIZE = 0.2


class Muon(torch.optim.Optimizer):
    """Muon for the groups that are marked ``orthogonal``, AdamW for the others (Jordan et al. 2024).

    With gradient g and momentum m: m <- mu m + (1 - mu) g, and u = mu m + (1 - mu) g, Nesterov's, made orthogonal and
    0.2 sqrt(its longer side) times as large (Liu et al. 2025, equation 4); then w <- w - lr (u + decay w). Of stacked
    matrices each is one.

    Under ZeRO a rank holds runs of matrices only. As many matrices as there are ranks are put together at a time, on
    each rank one, made orthogonal there, and sent to all, who take their runs.
    """

    def __init__(
        self, groups: Iterable[dict[str, Any]], lr: float, momentum: float, betas: tuple[float, float], eps: float
    ) -> None:
        usual = {"lr": lr, "momentum": momentum, "betas": betas, "eps": eps, "weight_decay": 0.0, "orthogonal": False}
        super().__init__(groups, usual)
        self._runs: dict[int, list[Piece]] = {}
        self._cut = False

    def know(self, pieces: Sequence[Piece], *, cut: bool) -> None:
        """Says which runs of which matrices lie in the tensors that this rank steps on. ``cut``: matrices are spread
        over ranks. Then those that this rank has no run of are listed too, in the same order on every rank."""
        self._cut = cut
        for piece in pieces:
            self._runs.setdefault(id(piece.owner), []).append(piece)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]  # noqa: ARG002 - torch's signature
        """One step of every weight that has a gradient (collective where matrices are cut). None before ``know``:
        DeepSpeed takes one of zero gradients while it is built (see ``engine.replicated``)."""
        if not self._runs:
            return
        for group in self.param_groups:
            weights = [weight for weight in group["params"] if weight.grad is not None]
            if not group["orthogonal"]:
                self._adamw(group, weights)
                continue
            for weight in weights:
                state = self.state[weight]
                if "momentum_buffer" not in state:
                    state["momentum_buffer"] = torch.zeros_like(weight)
                momentum = state["momentum_buffer"].lerp_(weight.grad, 1 - group["momentum"])
                update = weight.grad.lerp_(momentum, group["momentum"])  # in its place: nobody reads it after the step
                (self._put_together if self._cut else _at_once)(update, self._runs[id(weight)])
                weight.mul_(1 - group["lr"] * group["weight_decay"]).add_(update, alpha=-group["lr"])

    def _adamw(self, group: dict[str, Any], weights: list[Tensor]) -> None:
        for weight in weights:
            if "exp_avg" not in self.state[weight]:
                self.state[weight].update(
                    step=torch.zeros((), device=weight.device), exp_avg=torch.zeros_like(weight),
                    exp_avg_sq=torch.zeros_like(weight),
                )  # fmt: skip
        first, second, steps = ([self.state[weight][name] for weight in weights]
                                for name in ("exp_avg", "exp_avg_sq", "step"))  # fmt: skip
        beta1, beta2 = group["betas"]
        adamw(
            weights, [weight.grad for weight in weights if weight.grad is not None], first, second, [], steps,
            fused=True, amsgrad=False, beta1=beta1, beta2=beta2, lr=group["lr"], weight_decay=group["weight_decay"],
            eps=group["eps"], maximize=False,
        )  # fmt: skip

    def _put_together(self, update: Tensor, pieces: list[Piece]) -> None:
        rank, ranks = dist.get_rank(), dist.get_world_size()
        for first in range(0, len(pieces), ranks):
            batch = pieces[first : first + ranks]
            wholes = [torch.zeros(piece.shape, dtype=update.dtype, device=accelerator()) for piece in batch]
            for target, (piece, whole) in enumerate(zip(batch, wholes, strict=True)):
                if piece.length:
                    _run(whole, piece).copy_(piece.of(update))
                dist.reduce(whole, target)  # of runs that meet nowhere: nothing is added to anything but zeros
            if rank < len(batch):
                wholes[rank].copy_(orthogonal(wholes[rank]))
            for source, (piece, whole) in enumerate(zip(batch, wholes, strict=True)):
                dist.broadcast(whole, source)
                if piece.length:
                    piece.of(update).copy_(_run(whole, piece))


def _at_once(update: Tensor, pieces: list[Piece]) -> None:
    for piece in pieces:
        whole = piece.of(update).view(piece.shape)
        whole.copy_(orthogonal(whole))


def _run(whole: Tensor, piece: Piece) -> Tensor:
    return whole.view(-1).narrow(0, piece.start, piece.length)


def orthogonal(matrices: Tensor) -> Tensor:
    """``[..., rows, columns]`` with singular values near 1, times ``USUAL_SIZE`` and the root of the longer side.

    By Newton and Schulz, in bfloat16 on a GPU, as published; on a CPU, where that gains nothing, in float32.
    """
    rows, columns = matrices.shape[-2:]
    found = matrices.to(torch.bfloat16 if matrices.is_cuda else torch.float32)
    found = found.mT if rows > columns else found
    found = found / found.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-7)
    for _ in range(ITERATIONS):
        square = found @ found.mT
        found = A * found + (B * square + C * square @ square) @ found
    turned_back: Tensor = found.mT if rows > columns else found
    return turned_back * (USUAL_SIZE * math.sqrt(max(rows, columns)))
