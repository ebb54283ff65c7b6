"""Contrastive preference optimisation: DPO with a uniform reference, and imitation of the chosen answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from distft.algorithms.losses.base import LossBatch, LossResult, PlainMetrics, total
from distft.algorithms.losses.pairwise import pair_metrics, pairs
from distft.algorithms.masking import at_least_float32, masked_sum, segment_sum


@dataclass(frozen=True)
class Cpo(PlainMetrics):
    """``-(1-e) logsig(x) - e logsig(-x) + nll_weight NLL(chosen)/len``, x = beta (p_w - p_l), the mean over pairs.

    Xu et al. 2024, eq. 4 and 5; p_w, p_l: log-probabilities of chosen and rejected, summed over the response;
    e = ``label_smoothing``. NLL is a mean over the answer's tokens, and every pair weighs the same (the paper writes
    their sum; TRL 1.16 takes one mean over the chosen tokens of all pairs).

    Metrics, means over pairs (TRL's names): ``nll_loss``; ``rewards/{chosen,rejected}`` beta x p,
    ``rewards/accuracies``, ``rewards/margins``; ``logps/{chosen,rejected}`` p.
    """

    beta: float = 0.1
    label_smoothing: float = 0.0
    nll_weight: float = 1.0

    outputs: ClassVar[tuple[str, ...]] = ("logprobs",)
    reads: ClassVar[Literal["tokens", "last"]] = "tokens"
    columns: ClassVar[tuple[str, ...]] = ()
    optional_columns: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        if not self.beta > 0 or self.nll_weight < 0:
            raise ValueError(f"beta must be above 0 and nll_weight not below, not {self.beta} and {self.nll_weight}")
        if not 0 <= self.label_smoothing < 0.5:
            raise ValueError(f"label_smoothing must be in [0, 0.5), not {self.label_smoothing}")

    def __call__(
        self, outputs: Mapping[str, Tensor], batch: LossBatch, denominators: Mapping[str, float]
    ) -> LossResult:
        """See `Loss`. Sequences come as chosen, rejected, chosen, ..."""
        logprobs, mask = at_least_float32(outputs["logprobs"]), batch.token_mask
        if dummy := pairs(batch, logprobs):
            return dummy
        logps = segment_sum(logprobs, batch.segments, batch.num_sequences, mask)
        lengths = segment_sum(torch.ones_like(logprobs), batch.segments, batch.num_sequences, mask).clamp(min=1)
        real = batch.sequence_mask[0::2] & batch.sequence_mask[1::2]
        chosen, rejected = logps[0::2], logps[1::2]
        x, e = self.beta * (chosen - rejected), self.label_smoothing
        nll = -chosen / lengths[0::2]
        per_pair = -(1 - e) * F.logsigmoid(x) - e * F.logsigmoid(-x) + self.nll_weight * nll
        metrics = pair_metrics((self.beta * chosen, self.beta * rejected), (chosen, rejected), real)
        metrics["nll_loss"] = total(nll, real, "units")
        return LossResult(masked_sum(per_pair, real) / denominators["units"], metrics)
