"""Gates between 0 and 1 that are often exactly 0 or 1 (Louizos, Welling and Kingma 2018, equations 10 to 12), with the
temperature and bounds of diff pruning (Guo, Rush and Kim 2021, section 3.1): l = -1.5, r = 1.5."""

from __future__ import annotations

import math
from typing import Any, Final

import torch
from torch import Tensor
from torch.nn import functional

LOWER: Final = -1.5
UPPER: Final = 1.5
OPEN: Final = -1.0  # in the place of a settled gate: it is not settled


def drawn_gates(logits: Tensor, seed: int | None) -> tuple[Tensor, Tensor]:
    """Gates and their derivatives by ``logits``, in float32, as large as those.

    ``s = sigmoid(log u - log(1 - u) + logit)``, stretched to ``s (r - l) + l``, cut at 0 and 1. ``u`` is uniform and
    follows from ``seed`` alone; None: 1/2.
    """
    logits = logits.float()
    if seed is not None:
        generator = torch.Generator(logits.device).manual_seed(seed)
        u = torch.rand(logits.shape, generator=generator, device=logits.device)
        logits = logits + (u.log() - (-u).log1p())
    s = logits.sigmoid()
    stretched = s * (UPPER - LOWER) + LOWER
    slope = (UPPER - LOWER) * s * (1 - s)
    return stretched.clamp(0, 1), torch.where((stretched > 0) & (stretched < 1), slope, 0.0)


def chance_open(logits: Tensor) -> Tensor:
    """How probable it is that a gate is not 0: ``sigmoid(logit - log(-l / r))`` (equation 12), in float32."""
    return (logits.float() - math.log(-LOWER / UPPER)).sigmoid()


def settled_or(drawn: Tensor, settled: Tensor) -> Tensor:
    """What is settled of gates, and else what was drawn."""
    return torch.where(settled < 0, drawn, settled.float())


def through_gates(x: Tensor, values: Tensor, gates: Tensor, settled: Tensor, seed: int | None) -> Tensor:
    """``x (z * w)'``: ``x [..., in]``, ``values`` (w) and ``settled [out, in]``, ``gates [out * in]`` (logits of z) to
    ``[..., out]``. Gates have no gradient where they are settled. ``seed``: see ``drawn_gates``."""
    found: Tensor = _ThroughGates.apply(x, values, gates, settled, seed)  # type: ignore[no-untyped-call]
    return found


def number_open(gates: Tensor, settled: Tensor) -> Tensor:
    """How many gates are open, a float32 scalar: as expected where they are drawn (equation 2 of diff pruning), as
    counted where they are settled. ``gates [n]``, ``settled`` of as many numbers."""
    found: Tensor = _NumberOpen.apply(gates, settled)  # type: ignore[no-untyped-call]
    return found


class _ThroughGates(torch.autograd.Function):
    """What z and w make is computed again in the backward pass, in place of kept: of all layers together it were
    several times the model."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, values: Tensor, gates: Tensor, settled: Tensor, seed: int | None) -> Tensor:
        """See ``through_gates``."""
        ctx.save_for_backward(x, values, gates, settled)
        ctx.seed = seed
        z, _ = drawn_gates(gates.view_as(values), seed)
        return functional.linear(x, (settled_or(z, settled) * values).to(x.dtype))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Of what is settled, gates have none."""
        x, values, gates, settled = ctx.saved_tensors
        [gradient] = gradients
        drawn, slope = drawn_gates(gates.view_as(values), ctx.seed)
        z = settled_or(drawn, settled)
        of_x = gradient @ (z * values).to(gradient.dtype) if ctx.needs_input_grad[0] else None
        of_change = (gradient.flatten(0, -2).T @ x.flatten(0, -2)).float()
        slope = torch.where(settled < 0, slope, 0.0)
        of_gates = (of_change * values * slope).view_as(gates).to(gates.dtype)
        return of_x, (of_change * z).to(values.dtype), of_gates, None, None


class _NumberOpen(torch.autograd.Function):
    """Nothing but the gates themselves is kept for the backward pass."""

    @staticmethod
    def forward(ctx: Any, gates: Tensor, settled: Tensor) -> Tensor:
        """See ``number_open``."""
        ctx.save_for_backward(gates, settled)
        settled = settled.flatten()
        return torch.where(settled < 0, chance_open(gates), (settled > 0).float()).sum()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        """Of what is settled, none."""
        gates, settled = ctx.saved_tensors
        chance = chance_open(gates)
        slope = torch.where(settled.flatten() < 0, chance * (1 - chance), 0.0)
        return (gradients[0] * slope).to(gates.dtype), None
