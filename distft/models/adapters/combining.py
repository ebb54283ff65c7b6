"""Sums of adapters on one base: task arithmetic (Ilharco et al. 2023), and TIES (Yadav et al. 2023)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor

from distft.models.adapters.merging import merge_adapter

Combine: TypeAlias = Literal["sum", "ties"]


@dataclass(frozen=True)
class Weighted:
    """An adapter's folder, and how much of what it adds."""

    folder: str
    weight: float


def combine(model: Any, again: Callable[[], Any], adapters: Sequence[Weighted], how: Combine, density: float) -> None:
    """Adds to the weights of ``model``, in float32, what the adapters add to them; ``again`` reads the same model anew,
    to merge one of them.

    ``sum``: ``W + sum_i weight_i (W_i - W)``, where ``W_i`` is the weight with adapter i merged. ``ties``: of each
    ``W_i - W`` the share ``density`` of the largest numbers, of those the ones that have the sign of their sum, and of
    these, times their weights, the mean (of each matrix by itself, as PEFT does). Raises as ``merge_adapter``.
    """
    own = dict(model.named_parameters())
    added: dict[str, dict[int, Tensor]] = {}
    with torch.no_grad():
        for number, adapter in enumerate(adapters):
            for name, whole in merge_adapter(again(), adapter.folder).named_parameters():
                difference = whole - own[name]
                if difference.any():
                    added.setdefault(name, {})[number] = difference
        weights = [adapter.weight for adapter in adapters]
        for name, of_adapters in added.items():
            own[name] += _together(of_adapters, weights, how, density)


def _together(of_adapters: dict[int, Tensor], weights: Sequence[float], how: Combine, density: float) -> Tensor:
    from peft.utils import merge_utils

    parts = [of_adapters[number] for number in sorted(of_adapters)]
    factors = torch.tensor([weights[number] for number in sorted(of_adapters)], device=parts[0].device)
    if how == "ties":
        return merge_utils.ties(parts, factors, density)
    return merge_utils.task_arithmetic(parts, factors)
