"""The loss of REINFORCE leave-one-out: a response is one action."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from distft.algorithms.losses.base import LossBatch, LossResult, total
from distft.algorithms.losses.ratio import (
    RatioMetrics,
    clip_metrics,
    clipped_term,
    ratio_metrics,
    require_clip,
    token_terms,
)
from distft.algorithms.masking import keep, segment_sum


@dataclass(frozen=True)
class RlooPolicy(RatioMetrics):
    """``-min(r A, clip(r, 1 - clip_low, 1 + clip_high) A)`` of every *response*, mean over responses.

    Ahmadian et al. 2024 ("Back to Basics"), section 2.3 and 3: r = pi(y | x) / pi_old(y | x), the product over the
    response's tokens. Where r is 1 (one optimizer step for each rollout) its gradient is REINFORCE's,
    ``-A grad log pi(y | x)``. A is the column ``advantages``, the same number at every token of a response.

    Metrics: those of `ratio_metrics` and `clip_metrics`, over sequences, and the token mean ``entropy``.
    """

    clip_low: float = 0.2
    clip_high: float | None = None

    outputs: ClassVar[tuple[str, ...]] = ("logprobs", "entropy")
    reads: ClassVar[Literal["tokens", "last"]] = "tokens"
    columns: ClassVar[tuple[str, ...]] = ("advantages", "old_logprobs")
    optional_columns: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        require_clip(self.clip_low, self.clip_high)

    def __call__(
        self, outputs: Mapping[str, Tensor], batch: LossBatch, denominators: Mapping[str, float]
    ) -> LossResult:
        """See `Loss`. Metrics of the entropy only if the model returned it."""
        mask, real = batch.token_mask, batch.sequence_mask

        def summed(values: Tensor) -> Tensor:
            return segment_sum(values, batch.segments, batch.num_sequences, mask)

        logprobs, log_ratios, advantages = token_terms(outputs, batch)
        log_ratio, lengths = summed(log_ratios), summed(torch.ones_like(logprobs)).clamp(min=1)
        per_sequence, clipped = clipped_term(log_ratio, summed(advantages) / lengths, self.clip_low, self.clip_high)
        metrics = ratio_metrics(log_ratio, per_sequence, real, "sequences")
        metrics |= clip_metrics(log_ratio, clipped, real, "sequences")
        if "entropy" in outputs:
            metrics["entropy"] = total(outputs["entropy"], mask, "tokens")
        return LossResult(keep(per_sequence, real).sum() / denominators["sequences"], metrics)
