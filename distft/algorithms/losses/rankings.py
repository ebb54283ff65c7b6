"""The loss of reward models that learn from rankings: every two answers to a prompt, each answer read once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from distft.algorithms.losses.base import LossBatch, LossResult, total
from distft.algorithms.losses.reward import Preferred, reward_metrics
from distft.algorithms.masking import at_least_float32, keep, masked_sum

_NUM_PAIRS = "num_pairs"


@dataclass(frozen=True)
class Rankings(Preferred):
    """``-logsig(r_w - r_l - margin) + center_coef (r_w + r_l)^2``, mean over the pairs of a prompt, then over prompts.

    Ouyang et al. 2022 (InstructGPT, eq. 1): all C(K, 2) pairs of the K answers to a prompt together, so that an answer
    is read once and a prompt of many answers counts as much as one of two. Answers of equal ``rank`` make no pair. With
    two answers this is `distft.algorithms.losses.reward.Reward`, whose terms and column ``margin`` these are.

    Metrics: ``accuracy`` (share of all pairs with r_w > r_l), ``margin`` (mean r_w - r_l of all pairs) and
    ``min_reward, mean_reward, max_reward`` over all answers of the step.
    """

    columns: ClassVar[tuple[str, ...]] = ("unit", "rank")

    def __call__(
        self, outputs: Mapping[str, Tensor], batch: LossBatch, denominators: Mapping[str, float]
    ) -> LossResult:
        """See `Loss`. ``outputs["values"]`` is ``[num_sequences]``; column ``unit`` says whose answers they are, all of
        a prompt's in one micro-batch, ``rank`` which are better: 0 the best."""
        real = batch.sequence_mask
        rewards = keep(at_least_float32(outputs["values"]), real)
        unit, rank = batch.column("unit"), batch.column("rank")
        # [better, worse]: a table of all answers needs no look at values on the device, as a list of pairs would.
        paired = (unit[:, None] == unit) & (rank[:, None] < rank) & real[:, None] & real
        num_pairs = keep((unit[:, None] == unit) * paired.sum(dim=1), real).sum(dim=1).clamp(min=1)
        apart, both = rewards[:, None] - rewards, rewards[:, None] + rewards
        margin: float | Tensor = self.margin
        if "margin" in batch.columns:
            margin = margin + keep(batch.column("margin"), real)[:, None]
        per_pair = -F.logsigmoid(apart - margin) + self.center_coef * both.square()
        loss = masked_sum(per_pair / num_pairs[:, None], paired) / denominators["units"]
        metrics = reward_metrics(rewards.detach(), real)
        metrics |= {
            "accuracy": total(apart > 0, paired, "sum"),
            "margin": total(apart, paired, "sum"),
            _NUM_PAIRS: total(paired, paired, "sum"),
        }
        return LossResult(loss, metrics)

    def finalize(self, metrics: dict[str, float]) -> dict[str, float]:
        """Divides what is of pairs by their number."""
        result = dict(metrics)
        num_pairs = max(1.0, result.pop(_NUM_PAIRS))
        return result | {name: result[name] / num_pairs for name in ("accuracy", "margin")}
