"""The loss of group relative policy optimisation and its kin: PPO's clipped term, the KL beside it, no value model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from distft.algorithms.kl import token_kl
from distft.algorithms.losses.base import LossBatch, LossResult, total
from distft.algorithms.losses.ratio import RatioMetrics, clipped_term, ratio_metrics, require_clip, token_terms
from distft.algorithms.masking import keep, masked_sum, segment_sum


@dataclass(frozen=True)
class GrpoPolicy(RatioMetrics):
    """``-min(r A, clip(r, 1 - clip, 1 + clip_high) A) + kl_coef k3``, r = exp(log pi - log pi_old), of every token.

    Shao et al. 2024 (DeepSeekMath), eq. 3 and 4; k3 of the reference's log-probs (eq. 4). The optional column
    ``importance_weights`` scales the clipped term. What the terms of a step are averaged over (``average``):

    ``sequences``: the mean over responses of each one's token mean (DeepSeekMath).
    ``tokens``: the mean over all tokens (Yu et al. 2025, DAPO, eq. 8).
    ``constant``: each response's sum over ``constant_length``, mean over responses: a long response weighs what its
    tokens weigh (Liu et al. 2025, Dr. GRPO, section 3.2).

    Metrics: those of `ratio_metrics`, and token means ``policy/entropy_avg`` and, with a ``kl_coef``,
    ``policy/kl_avg``.
    """

    clip: float = 0.2
    clip_high: float | None = None
    kl_coef: float = 0.0
    entropy_coef: float = 0.0
    average: Literal["sequences", "tokens", "constant"] = "sequences"
    constant_length: int | None = None

    outputs: ClassVar[tuple[str, ...]] = ("logprobs", "entropy")
    reads: ClassVar[Literal["tokens", "last"]] = "tokens"
    optional_columns: ClassVar[tuple[str, ...]] = ("importance_weights",)

    def __post_init__(self) -> None:
        require_clip(self.clip, self.clip_high)
        if self.average not in ("sequences", "tokens", "constant"):
            raise ValueError(f"average must be sequences, tokens or constant, not {self.average}")
        if (self.average == "constant") != (self.constant_length is not None):
            raise ValueError("constant_length goes with average constant, and only with it")

    @property
    def columns(self) -> tuple[str, ...]:
        """The reference's log-probs only where they weigh anything."""
        return ("advantages", "old_logprobs", *(("ref_logprobs",) if self.kl_coef else ()))

    def __call__(
        self, outputs: Mapping[str, Tensor], batch: LossBatch, denominators: Mapping[str, float]
    ) -> LossResult:
        """See `Loss`. Metrics of the entropy only if the model returned it."""
        mask = batch.token_mask
        logprobs, log_ratio, advantages = token_terms(outputs, batch)
        per_token, clipped = clipped_term(log_ratio, advantages, self.clip, self.clip_high)
        if "importance_weights" in batch.columns:
            per_token = per_token * keep(batch.column("importance_weights"), mask)
        metrics = ratio_metrics(log_ratio, clipped, per_token, mask)
        if self.kl_coef:
            kl = token_kl(logprobs, keep(batch.column("ref_logprobs"), mask), "k3")
            metrics["policy/kl_avg"] = total(kl, mask, "tokens")
            per_token = per_token + self.kl_coef * kl
        if "entropy" in outputs:
            metrics["policy/entropy_avg"] = total(outputs["entropy"], mask, "tokens")
        if self.entropy_coef:
            per_token = per_token - self.entropy_coef * keep(outputs["entropy"], mask)
        return LossResult(self._averaged(per_token, batch, denominators), metrics)

    def _averaged(self, per_token: Tensor, batch: LossBatch, denominators: Mapping[str, float]) -> Tensor:
        mask = batch.token_mask
        if self.average == "tokens":
            return masked_sum(per_token, mask) / denominators["tokens"]
        if self.constant_length is not None:
            return masked_sum(per_token, mask) / (denominators["sequences"] * self.constant_length)
        counts = segment_sum(torch.ones_like(per_token), batch.segments, batch.num_sequences, mask)
        return masked_sum(per_token / counts.clamp(min=1)[batch.segments], mask) / denominators["sequences"]
