"""The loss of the methods without a value model: a term of the clipped ratio, the KL beside it. One loss, and options
for what the papers differ in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from distft.algorithms.kl import token_kl
from distft.algorithms.losses.base import LossBatch, LossResult, Metric, total
from distft.algorithms.losses.ratio import (
    RatioMetrics,
    clip_metrics,
    clipped_term,
    ratio_metrics,
    require_clip,
    token_terms,
    weighted_term,
)
from distft.algorithms.masking import keep, masked_sum, segment_sum

_CHOICES = {
    "ratio": ("tokens", "sequences"),
    "surrogate": ("clipped", "weighted"),
    "average": ("sequences", "tokens", "constant"),
    "kl_estimator": ("k2", "k3"),
}


@dataclass(frozen=True)
class ClippedPolicy(RatioMetrics):
    """``-min(r A, clip(r, 1 - clip_low, 1 + clip_high) A) + kl_coef KL - entropy_coef H`` of every token.

    Shao et al. 2024 (DeepSeekMath), eq. 3; the KL to the reference by ``kl_estimator`` (k3: eq. 4 there; k1 would have
    no gradient in the mean). The optional column ``importance_weights`` scales the first term.

    ``ratio``. ``tokens``: r = pi / pi_old of each token. ``sequences``: r of every token of a response is the geometric
    mean of theirs (Zheng et al. 2025, GSPO, eq. 5 and 7).

    ``surrogate``. ``clipped``: as above. ``weighted``: ``-sg(min(r, 1 + clip_high)) A log pi`` in its place, so that no
    token loses its gradient, and without a lower bound (MiniMax 2025, CISPO, eq. 4).

    ``average``, what the terms of a step are averaged over. ``sequences``: the mean over responses of each one's token
    mean (DeepSeekMath). ``tokens``: the mean over all tokens (Yu et al. 2025, DAPO, eq. 8). ``constant``: each
    response's sum over ``constant_length``, mean over responses: a long response weighs what its tokens weigh (Liu et
    al. 2025, Dr. GRPO, section 3.2).

    Metrics, token means: those of `ratio_metrics`, ``entropy`` and, with a ``kl_coef``, ``kl``; and those of
    `clip_metrics`, of responses where the ratio is theirs.
    """

    clip_low: float = 0.2
    clip_high: float | None = None
    kl_coef: float = 0.0
    kl_estimator: Literal["k2", "k3"] = "k3"
    entropy_coef: float = 0.0
    ratio: Literal["tokens", "sequences"] = "tokens"
    surrogate: Literal["clipped", "weighted"] = "clipped"
    average: Literal["sequences", "tokens", "constant"] = "sequences"
    constant_length: int | None = None

    outputs: ClassVar[tuple[str, ...]] = ("logprobs", "entropy")
    reads: ClassVar[Literal["tokens", "last"]] = "tokens"
    optional_columns: ClassVar[tuple[str, ...]] = ("importance_weights",)

    def __post_init__(self) -> None:
        require_clip(self.clip_low, self.clip_high)
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} must be {' or '.join(choices)}, not {getattr(self, name)}")
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
        if self.ratio == "sequences":
            log_ratio = (_summed(log_ratio, batch) / _lengths(log_ratio, batch))[batch.segments]
        if self.surrogate == "weighted":
            high = self.clip_low if self.clip_high is None else self.clip_high
            per_token, clipped = weighted_term(logprobs, log_ratio, advantages, high)
        else:
            per_token, clipped = clipped_term(log_ratio, advantages, self.clip_low, self.clip_high)
        if "importance_weights" in batch.columns:
            per_token = per_token * keep(batch.column("importance_weights"), mask)
        metrics = ratio_metrics(log_ratio, per_token, mask) | self._clip_metrics(log_ratio, clipped, batch)
        if self.kl_coef:
            kl = token_kl(logprobs, keep(batch.column("ref_logprobs"), mask), self.kl_estimator)
            metrics["kl"] = total(kl, mask, "tokens")
            per_token = per_token + self.kl_coef * kl
        if "entropy" in outputs:
            metrics["entropy"] = total(outputs["entropy"], mask, "tokens")
        if self.entropy_coef:
            per_token = per_token - self.entropy_coef * keep(outputs["entropy"], mask)
        return LossResult(self._averaged(per_token, batch, denominators), metrics)

    def _clip_metrics(self, log_ratio: Tensor, clipped: Tensor, batch: LossBatch) -> dict[str, Metric]:
        """Shares of what has a ratio of its own: tokens, or (as in TRL) responses."""
        if self.ratio == "tokens":
            return clip_metrics(log_ratio, clipped, batch.token_mask)
        of_response = _summed(log_ratio, batch) / _lengths(log_ratio, batch)
        return clip_metrics(of_response, _summed(clipped.float(), batch) > 0, batch.sequence_mask, "sequences")

    def _averaged(self, per_token: Tensor, batch: LossBatch, denominators: Mapping[str, float]) -> Tensor:
        mask = batch.token_mask
        if self.average == "tokens":
            return masked_sum(per_token, mask) / denominators["tokens"]
        if self.constant_length is not None:
            return masked_sum(per_token, mask) / (denominators["sequences"] * self.constant_length)
        return masked_sum(per_token / _lengths(per_token, batch)[batch.segments], mask) / denominators["sequences"]


def _summed(per_token: Tensor, batch: LossBatch) -> Tensor:
    return segment_sum(per_token, batch.segments, batch.num_sequences, batch.token_mask)


def _lengths(per_token: Tensor, batch: LossBatch) -> Tensor:
    """Tokens of each response that are learned, at least 1; ``[num_sequences]``."""
    return _summed(torch.ones_like(per_token), batch).clamp(min=1)
