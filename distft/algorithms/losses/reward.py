"""The pairwise loss of reward models."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from distft.algorithms.losses.base import LossBatch, LossResult, Metric, PlainMetrics, total
from distft.algorithms.losses.pairwise import pairs
from distft.algorithms.masking import at_least_float32, keep, masked_sum


@dataclass(frozen=True)
class Preferred:
    """What the losses of reward models have in common that say by how much one answer is better than another."""

    center_coef: float = 0.0
    margin: float = 0.0

    outputs: ClassVar[tuple[str, ...]] = ("values",)
    reads: ClassVar[Literal["tokens", "last"]] = "last"
    optional_columns: ClassVar[tuple[str, ...]] = ("margin",)

    def __post_init__(self) -> None:
        if self.center_coef < 0:
            raise ValueError(f"center_coef must not be below 0, not {self.center_coef}")


@dataclass(frozen=True)
class Reward(Preferred, PlainMetrics):
    """``-logsig(r_w - r_l - margin) + center_coef (r_w + r_l)^2``, mean over pairs.

    Bradley-Terry likelihood as in Ouyang et al. 2022 (InstructGPT, eq. 1), with the margin of Touvron et al. 2023
    (Llama 2, eq. 2) and the centring term of Eisenstein et al. 2023. The optional column ``margin`` of a pair (the same
    number at both sides) is added to the loss's own, which is of every pair.

    Metrics: ``accuracy`` (share of pairs with r_w > r_l), ``margin`` (mean r_w - r_l) and
    ``min_reward, mean_reward, max_reward`` over all rewards, chosen and rejected, of the step.
    """

    columns: ClassVar[tuple[str, ...]] = ()

    def __call__(
        self, outputs: Mapping[str, Tensor], batch: LossBatch, denominators: Mapping[str, float]
    ) -> LossResult:
        """See `Loss`. ``outputs["values"]`` is ``[num_sequences]``: chosen, rejected, chosen, ..."""
        rewards = keep(at_least_float32(outputs["values"]), batch.sequence_mask)
        if dummy := pairs(batch, rewards):
            return dummy
        chosen, rejected = rewards[0::2], rewards[1::2]
        real = batch.sequence_mask[0::2] & batch.sequence_mask[1::2]
        margin: float | Tensor = self.margin
        if "margin" in batch.columns:
            margin = margin + keep(batch.column("margin"), batch.sequence_mask)[0::2]
        per_pair = -F.logsigmoid(chosen - rejected - margin) + self.center_coef * (chosen + rejected).square()
        loss = masked_sum(per_pair, real) / denominators["units"]
        differences, metrics = (chosen - rejected).detach(), reward_metrics(rewards.detach(), batch.sequence_mask)
        metrics |= {"accuracy": total(differences > 0, real, "units"), "margin": total(differences, real, "units")}
        return LossResult(loss, metrics)


def reward_metrics(rewards: Tensor, sequences: Tensor) -> dict[str, Metric]:
    """``min_reward, mean_reward, max_reward`` over ``rewards`` of the ``sequences`` that are real."""
    infinity = rewards.new_full((1,), torch.inf, dtype=torch.float64)
    return {
        "mean_reward": total(rewards, sequences, "sequences"),
        "min_reward": Metric(torch.cat([torch.where(sequences, rewards.double(), infinity), infinity]).min(), "min"),
        "max_reward": Metric(torch.cat([torch.where(sequences, rewards.double(), -infinity), -infinity]).max(), "max"),
    }
