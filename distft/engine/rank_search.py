"""AdaLoRA's search (Zhang et al. 2023, algorithm 1): which numbers of E become zero after a step of the optimizer."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from distft.common.errors import UserError
from distft.config.adapters.adalora import AdaLora
from distft.models.adapters.adalora import KEPT, MARK, PARTS, SEEN
from distft.models.adapters.layers import ADAPTER


class RankSearch:
    """Needs whole weights and gradients on every rank (stage 0).

    What it has seen lies in buffers of the layers, so that a checkpoint has it.
    """

    penalty_metric: ClassVar[str] = "adapters/orthogonality"
    left_metric: ClassVar[str] = "adapters/rank"

    def __init__(self, module: nn.Module, adalora: AdaLora) -> None:
        self._keys = adalora
        self._layers: list[Any] = [part for part in module.modules() if hasattr(part, MARK)]
        self._gradients: list[list[Tensor]] = []
        for layer in self._layers:
            for part, parameter in zip(PARTS, _parameters(layer), strict=True):
                for name in SEEN:
                    layer.register_buffer(f"{part}_{name}", torch.zeros_like(parameter, requires_grad=False))
            layer.register_buffer(KEPT, torch.ones_like(layer.lora_E[ADAPTER], dtype=torch.bool))

    def require_room(self, total_steps: int, role: str) -> None:
        """Raises UserError where so many steps leave none for the search."""
        if wrong := self._keys.why_no_search(total_steps):
            key, what, hint = wrong
            raise UserError(what, where=f"models.{role}.peft.{key}", hint=hint)

    def begin(self, step: int) -> None:
        """Nothing: what it looks at are the gradients."""

    def penalty(self) -> Tensor:
        """``orthogonality * mean |P P' - I|`` of all A, and of all B turned (equation 4; without its square, as PEFT
        has it)."""
        norms = []
        for layer in self._layers:
            first, _, second = _parameters(layer)
            for matrix in (first, second.T):
                product = matrix @ matrix.T
                norms.append(torch.linalg.matrix_norm(product - torch.eye(len(product)).to(product)))
        return self._keys.orthogonality * torch.stack(norms).mean()

    def see(self) -> None:
        """The gradients of the step that is about to be taken."""
        self._gradients = [[_gradient(parameter) for parameter in _parameters(layer)] for layer in self._layers]

    @torch.no_grad()
    def cut(self, step: int, total_steps: int) -> float:
        """After step number ``step`` (from 0) of ``total_steps``, the last of which leaves the target. Returns the
        rank that is left, in the mean."""
        last = total_steps - self._keys.final_steps
        if step < last:
            if self._gradients:  # none of a step that was not taken
                self._learn()
            if step == total_steps - 1:
                self._choose(self._budget(last, last))
            elif step > self._keys.initial_steps and step % self._keys.search_every == 0:
                self._choose(self._budget(step, last))
        elif step == last:
            self._choose(self._budget(step, last))
        else:
            self._zero()
        self._gradients = []
        return sum(float(layer.get_buffer(KEPT).sum()) for layer in self._layers) / len(self._layers)

    def _budget(self, step: int, last: int) -> int:
        """Numbers of E that are left after a step (equation 12: from all of them to the target, by a cubic)."""
        first, target = (rank * len(self._layers) for rank in (self._keys.r, self._keys.target_r))
        left = 1 - (step - self._keys.initial_steps) / (last - self._keys.initial_steps)
        return int((first - target) * left**3 + target)

    def _learn(self) -> None:
        """How much each number matters: ``|weight * gradient|``, smoothed, and how far that is from what it was
        (equations 8 to 10)."""
        for layer, gradients in zip(self._layers, self._gradients, strict=True):
            for part, parameter, gradient in zip(PARTS, _parameters(layer), gradients, strict=True):
                importance, uncertainty = _seen(layer, part)
                now = (parameter * gradient).abs()
                importance.mul_(self._keys.beta1).add_(now, alpha=1 - self._keys.beta1)
                uncertainty.mul_(self._keys.beta2).add_((now - importance).abs(), alpha=1 - self._keys.beta2)

    def _choose(self, budget: int) -> None:
        """Of all numbers of E the ``budget`` that matter most are kept, each with its row of A and its column of B
        (equation 7)."""
        scores = []
        for layer in self._layers:
            first, middle, second = (torch.mul(*_seen(layer, part)) for part in PARTS)
            scores.append(middle.flatten() + first.mean(dim=1) + second.mean(dim=0))
        whole = torch.cat(scores)
        if (worst := len(whole) - budget) < 1:
            return
        threshold = torch.kthvalue(whole, worst).values
        for layer, score in zip(self._layers, scores, strict=True):
            layer.get_buffer(KEPT).copy_((score > threshold).unsqueeze(1))
        self._zero()

    def _zero(self) -> None:
        for layer in self._layers:
            layer.lora_E[ADAPTER].masked_fill_(~layer.get_buffer(KEPT), 0.0)


def _gradient(parameter: nn.Parameter) -> Tensor:
    assert parameter.grad is not None
    return parameter.grad.clone()


def _parameters(layer: Any) -> list[nn.Parameter]:
    return [getattr(layer, part)[ADAPTER] for part in PARTS]


def _seen(layer: Any, part: str) -> tuple[Tensor, Tensor]:
    importance, uncertainty = (layer.get_buffer(f"{part}_{name}") for name in SEEN)
    return importance, uncertainty
