"""Rules that update each weight from its own gradient and state alone."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor


class OneByOne(torch.optim.Optimizer):
    """An optimizer that steps one weight after the other."""

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]  # noqa: ARG002 - torch's signature
        """One step of every weight that has a gradient."""
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    self.update(group, weight, weight.grad)

    @abstractmethod
    def update(self, group: dict[str, Any], weight: Tensor, gradient: Tensor) -> None:
        """One step of a weight of that parameter group, in place."""
