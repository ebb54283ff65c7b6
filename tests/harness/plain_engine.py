"""An engine of plain torch, for one process: no DeepSpeed, no sharding, no communication of gradients."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from distft.config.optimizers.adamw import AdamW
from distft.engine.diverged import NonFiniteGradients


class PlainEngine:
    """What the update needs of ``distft.engine.engine.Engine``, over a module that lies here whole."""

    world_size = 1

    def __init__(self, module: nn.Module, optimizer: AdamW) -> None:
        self.module = module.train()
        self.device = torch.device("cpu")
        self._max_grad_norm = optimizer.max_grad_norm
        self._optimizer = torch.optim.AdamW(
            module.parameters(),
            lr=optimizer.learning_rate,
            betas=optimizer.betas,
            eps=optimizer.eps,
            weight_decay=optimizer.weight_decay,
        )

    def forward(self, **inputs: Any) -> Any:
        """A forward pass."""
        return self.module(**inputs)

    def backward(self, loss: Tensor) -> None:
        """Adds a micro-batch's gradients."""
        loss.backward()

    def step(self, learning_rate: float) -> float:
        """Clips and steps; the norm before clipping."""
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        norm = float(torch.nn.utils.clip_grad_norm_(self.module.parameters(), self._max_grad_norm))
        if not math.isfinite(norm):
            self.drop()
            raise NonFiniteGradients("gradient norm", norm, learning_rate)
        self._optimizer.step()
        self._optimizer.zero_grad()
        return norm

    def drop(self) -> None:
        """Throws the gradients away."""
        self._optimizer.zero_grad()
