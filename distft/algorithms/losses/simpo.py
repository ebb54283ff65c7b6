"""Simple preference optimisation: the chosen answer likelier per token than the rejected one, by a margin."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch.nn.functional as F
from torch import Tensor

from distft.algorithms.losses.base import LossBatch, LossResult, PlainMetrics
from distft.algorithms.losses.pairwise import mean_logprobs, pair_metrics, pairs
from distft.algorithms.masking import at_least_float32, masked_sum


@dataclass(frozen=True)
class Simpo(PlainMetrics):
    """``-logsig(beta (p_w - p_l) - gamma)``, the mean over pairs. Meng et al. 2024, eq. 6.

    p_w, p_l: the mean log-probability of a response token of chosen and rejected.

    Metrics, means over pairs (TRL's names): ``rewards/{chosen,rejected}`` beta x p, ``rewards/accuracies``,
    ``rewards/margins``; ``logps/{chosen,rejected}`` p.
    """

    beta: float = 2.0
    gamma: float = 1.0

    outputs: ClassVar[tuple[str, ...]] = ("logprobs",)
    reads: ClassVar[Literal["tokens", "last"]] = "tokens"
    columns: ClassVar[tuple[str, ...]] = ()
    optional_columns: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        if not self.beta > 0 or self.gamma < 0:
            raise ValueError(f"beta must be above 0 and gamma not below, not {self.beta} and {self.gamma}")

    def __call__(
        self, outputs: Mapping[str, Tensor], batch: LossBatch, denominators: Mapping[str, float]
    ) -> LossResult:
        """See `Loss`. Sequences come as chosen, rejected, chosen, ..."""
        logprobs = at_least_float32(outputs["logprobs"])
        if dummy := pairs(batch, logprobs):
            return dummy
        means = mean_logprobs(logprobs, batch)
        chosen, rejected = means.chosen, means.rejected
        per_pair = -F.logsigmoid(self.beta * (chosen - rejected) - self.gamma)
        rewards = (self.beta * chosen, self.beta * rejected)
        metrics = pair_metrics(rewards, (chosen, rejected), means.count)
        return LossResult(masked_sum(per_pair, means.count) / denominators["units"], metrics)
