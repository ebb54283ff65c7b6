"""Lion: the sign of a momentum."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from distft.engine.rules.chunks import in_chunks
from distft.engine.rules.one_by_one import OneByOne


class Lion(OneByOne):
    """EvoLved Sign Momentum (Chen et al. 2023, algorithm 2).

    With gradient g and momentum m: w <- w - lr (sign(beta1 m + (1 - beta1) g) + decay w), then m <- beta2 m +
    (1 - beta2) g.
    """

    def __init__(self, groups: Iterable[dict[str, Any]], lr: float, betas: tuple[float, float]) -> None:
        super().__init__(groups, {"lr": lr, "betas": betas, "weight_decay": 0.0})

    def update(self, group: dict[str, Any], weight: Tensor, gradient: Tensor) -> None:
        """One step of a weight."""
        rate, (beta1, beta2) = group["lr"], group["betas"]
        state = self.state[weight]
        if not state:
            state["exp_avg"] = torch.zeros_like(weight)
        for part, slope, momentum in in_chunks(weight, gradient, state["exp_avg"]):
            part.mul_(1 - rate * group["weight_decay"])
            part.add_(momentum.lerp(slope, 1 - beta1).sign_(), alpha=-rate)
            momentum.lerp_(slope, 1 - beta2)
