"""An engine of plain torch, for one process: no DeepSpeed, no sharding, no communication of gradients."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from distft.config.optimizers.adamw import AdamW


class PlainEngine:
    """What the update needs of ``distft.engine.engine.Engine``, over a module that lies here whole."""

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
        norm = torch.nn.utils.clip_grad_norm_(self.module.parameters(), self._max_grad_norm)
        self._optimizer.step()
        self._optimizer.zero_grad()
        return float(norm)
