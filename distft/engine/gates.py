"""Diff pruning's gates (Guo, Rush and Kim 2021): drawn anew in each step, paid for, and settled in the end."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from distft.common.errors import UserError
from distft.common.seeding import derive
from distft.config.adapters.diff_pruning import DiffPruning
from distft.models.adapters.diff_pruning import PrunedDifference
from distft.models.adapters.hard_concrete import number_open


class Gates:
    """Needs whole differences on every rank (stages 0 to 2)."""

    penalty_metric: ClassVar[str] = "adapters/sparsity"
    left_metric: ClassVar[str] = "adapters/changed"

    def __init__(self, module: nn.Module, diff: DiffPruning, seed: int) -> None:
        self._keys, self._seed = diff, seed
        self._parts = [part for part in module.modules() if isinstance(part, PrunedDifference)]
        self._total = sum(part.values.numel() for part in self._parts)

    def require_room(self, total_steps: int, role: str) -> None:
        """Raises UserError where so many steps leave none in which gates are learned."""
        if wrong := self._keys.why_no_room(total_steps):
            key, what, hint = wrong
            raise UserError(what, where=f"models.{role}.peft.{key}", hint=hint)

    def begin(self, step: int) -> None:
        """All micro-batches of a step have the same gates, on every rank: they follow from the run's seed, the step and
        the layer, and a resumed run draws the same."""
        for number, part in enumerate(self._parts):
            part.seed = derive(self._seed, "gates", step, number)

    def penalty(self) -> Tensor:
        """``sparsity`` times the expected share of numbers that are changed (equation 4, over their number)."""
        return self._keys.sparsity * self._open() / self._total

    @torch.no_grad()
    def cut(self, step: int, total_steps: int) -> float:
        """After the last step in which gates are learned, those of ``target_share`` of all numbers, whose changes are
        the largest, stay what they are, and the others are closed (section 3.3). Returns the share of numbers that are
        expected to be changed."""
        if step == total_steps - self._keys.final_steps - 1:
            self._settle()
        return float(self._open()) / self._total

    def _open(self) -> Tensor:
        counts = [number_open(part.gates, part.settled) for part in self._parts]
        return torch.stack(counts).sum()

    def _settle(self) -> None:
        least, share = 0.0, self._keys.target_share
        if share is not None and (kept := max(1, round(share * self._total))) < self._total:
            sizes = torch.cat([_change(part).abs().flatten().cpu() for part in self._parts])
            least = float(torch.kthvalue(sizes, self._total - kept + 1).values)
        for part in self._parts:
            size, gates = _change(part).abs(), part.medians(part.gates)
            part.settled.copy_(torch.where((size >= least) & (size > 0), gates, 0.0))


def _change(part: PrunedDifference) -> Tensor:
    return part.change(part.values, part.gates)
