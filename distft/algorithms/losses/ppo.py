"""The clipped losses of PPO for policy and value (Schulman et al. 2017). Token means."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from distft.algorithms.losses.base import LossBatch, LossResult, total
from distft.algorithms.losses.ratio import RatioMetrics, clipped_term, ratio_metrics, require_clip, token_terms
from distft.algorithms.masking import at_least_float32, keep, masked_sum


@dataclass(frozen=True)
class PpoPolicy(RatioMetrics):
    """``-min(r A, clip(r, 1 - clip, 1 + clip_high) A) - entropy_coef H``, r = exp(log pi - log pi_old).

    Schulman et al. 2017, eq. 7; ``clip_high`` (None = clip) from Yu et al. 2025. ``dual_clip`` c > 1
    bounds the loss of tokens with A < 0 by -c A (Ye et al. 2020). The optional column
    ``importance_weights`` (``[num_tokens]``, truncated already) scales the clipped term of each token.
    log pi_old is read from a column at one optimizer step per rollout too: the pass that makes it is PPO's KL
    penalty as well, so there is nothing to skip.

    Metrics, token means of the step: ``policy/approxkl_avg`` 1/2 (log r)^2, ``policy/clipfrac_avg``,
    ``policy/entropy_avg``, ``loss/policy_avg`` (without entropy bonus), ``val/ratio`` mean of r and
    ``val/ratio_var`` its variance over tokens (TRL's is over micro-batches, so depends on their size).
    """

    clip: float = 0.2
    clip_high: float | None = None
    dual_clip: float | None = None
    entropy_coef: float = 0.0

    outputs: ClassVar[tuple[str, ...]] = ("logprobs", "entropy")
    reads: ClassVar[Literal["tokens", "last"]] = "tokens"
    columns: ClassVar[tuple[str, ...]] = ("advantages", "old_logprobs")
    optional_columns: ClassVar[tuple[str, ...]] = ("importance_weights",)

    def __post_init__(self) -> None:
        require_clip(self.clip, self.clip_high)
        if self.dual_clip is not None and not self.dual_clip > 1:
            raise ValueError(f"dual_clip must be above 1, not {self.dual_clip}")

    def __call__(
        self, outputs: Mapping[str, Tensor], batch: LossBatch, denominators: Mapping[str, float]
    ) -> LossResult:
        """See `Loss`. Metrics of the entropy only if the model returned it."""
        mask = batch.token_mask
        _, log_ratio, advantages = token_terms(outputs, batch)
        per_token, clipped = clipped_term(log_ratio, advantages, self.clip, self.clip_high)
        if self.dual_clip is not None:
            bounded = torch.minimum(per_token, -self.dual_clip * advantages)
            per_token = torch.where(advantages < 0, bounded, per_token)
        if "importance_weights" in batch.columns:
            per_token = per_token * keep(batch.column("importance_weights"), mask)
        metrics = ratio_metrics(log_ratio, per_token, mask)
        metrics["policy/clipfrac_avg"] = total(clipped, mask, "tokens")
        if "entropy" in outputs:
            metrics["policy/entropy_avg"] = total(outputs["entropy"], mask, "tokens")
        if self.entropy_coef:
            per_token = per_token - self.entropy_coef * keep(outputs["entropy"], mask)
        return LossResult(masked_sum(per_token, mask) / denominators["tokens"], metrics)


_RESIDUAL, _RESIDUAL_2, _RETURN, _RETURN_2 = "residual", "residual_squared", "return", "return_squared"


@dataclass(frozen=True)
class PpoValue:
    """``1/2 max((v - R)^2, (clip(v, v_old - value_clip, v_old + value_clip) - R)^2)``, token mean.

    Schulman et al. 2016/2017 as in the PPO reference implementation; ``value_clip`` None = no clipping.

    Metrics, token means of the step: ``loss/value_avg``, ``val/clipfrac_avg`` (share of tokens whose clipped
    error is the larger), ``val/explained_variance`` 1 - Var(R - v_old) / Var(R) over tokens, 0 if the
    returns do not vary.
    """

    value_clip: float | None = 0.2

    outputs: ClassVar[tuple[str, ...]] = ("values",)
    reads: ClassVar[Literal["tokens", "last"]] = "tokens"
    columns: ClassVar[tuple[str, ...]] = ("values", "returns")
    optional_columns: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        if self.value_clip is not None and not self.value_clip > 0:
            raise ValueError(f"value_clip must be above 0 or null, not {self.value_clip}")

    def __call__(
        self, outputs: Mapping[str, Tensor], batch: LossBatch, denominators: Mapping[str, float]
    ) -> LossResult:
        """See `Loss`. ``outputs["values"]`` is ``[num_tokens]``, the value before each response token."""
        mask = batch.token_mask
        values = keep(at_least_float32(outputs["values"]), mask)
        old, returns = keep(batch.column("values"), mask), keep(batch.column("returns"), mask)
        error = (values - returns).square()
        worst, clipped = error, torch.zeros_like(mask)
        if self.value_clip is not None:
            # Clamped itself, not its distance: inside the range it must stay the same number to the last bit.
            near = values.clamp(old - self.value_clip, old + self.value_clip)
            clipped_error = (near - returns).square()
            worst, clipped = torch.maximum(error, clipped_error), clipped_error > error
        residual, target = (returns - old).double(), returns.double()
        metrics = {
            "loss/value_avg": total(0.5 * worst, mask, "tokens"),
            "val/clipfrac_avg": total(clipped, mask, "tokens"),
            _RESIDUAL: total(residual, mask, "tokens"),
            _RESIDUAL_2: total(residual.square(), mask, "tokens"),
            _RETURN: total(target, mask, "tokens"),
            _RETURN_2: total(target.square(), mask, "tokens"),
        }
        return LossResult(masked_sum(0.5 * worst, mask) / denominators["tokens"], metrics)

    def finalize(self, metrics: dict[str, float]) -> dict[str, float]:
        """From moments to the explained variance."""
        result = dict(metrics)
        if _RETURN in result:
            unexplained = result.pop(_RESIDUAL_2) - result.pop(_RESIDUAL) ** 2
            mean, squares = result.pop(_RETURN), result.pop(_RETURN_2)
            variance = squares - mean**2
            # Below rounding of the two moments there is no variance to explain.
            result["val/explained_variance"] = 1 - unexplained / variance if variance > 1e-12 * squares else 0.0
        return result
