"""What the losses over the ratio pi / pi_old have in common: the ratio, the clipped terms, their metrics."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from distft.algorithms.losses.base import LossBatch, Metric, Reduce, total
from distft.algorithms.masking import at_least_float32, keep


def require_clip(clip: float, clip_high: float | None = None) -> None:
    """Raises ValueError for bounds of the ratio that are none."""
    if not 0 < clip <= 1 or (clip_high is not None and not clip_high > 0):
        raise ValueError(f"clip must be in (0, 1] and clip_high above 0, not {clip} and {clip_high}")


def token_terms(outputs: Mapping[str, Tensor], batch: LossBatch) -> tuple[Tensor, Tensor, Tensor]:
    """``logprobs``, ``logprobs - old_logprobs`` and ``advantages``, ``[num_tokens]``, 0 where a token is masked."""
    mask = batch.token_mask
    logprobs = keep(at_least_float32(outputs["logprobs"]), mask)
    return logprobs, logprobs - keep(batch.column("old_logprobs"), mask), keep(batch.column("advantages"), mask)


def clipped_term(
    log_ratio: Tensor, advantages: Tensor, clip: float, clip_high: float | None = None
) -> tuple[Tensor, Tensor]:
    """``-min(r A, clip(r, 1 - clip, 1 + clip_high) A)`` with ``clip_high`` None for ``clip``, and where the clip binds.
    Schulman et al. 2017, eq. 7; the upper bound of its own from Yu et al. 2025."""
    ratio = log_ratio.exp()
    high = clip if clip_high is None else clip_high
    unclipped, clipped = -ratio * advantages, -ratio.clamp(1 - clip, 1 + high) * advantages
    return torch.maximum(unclipped, clipped), clipped > unclipped


def weighted_term(logprobs: Tensor, log_ratio: Tensor, advantages: Tensor, clip_high: float) -> tuple[Tensor, Tensor]:
    """``-w A log pi`` with the constant w = min(r, 1 + clip_high), and where that bound binds: every token keeps a
    gradient. MiniMax 2025 (MiniMax-M1), eq. 4 and 5, without a lower bound as there."""
    ratio = log_ratio.detach().exp()
    return -ratio.clamp(max=1 + clip_high) * advantages * logprobs, ratio > 1 + clip_high


def ratio_metrics(log_ratio: Tensor, losses: Tensor, mask: Tensor, reduce: Reduce = "tokens") -> dict[str, Metric]:
    """Means of the step: ``policy/approxkl_avg`` 1/2 (log r)^2, ``loss/policy_avg``, ``val/ratio`` mean of r and
    ``val/ratio_var`` its variance. Over tokens, all arguments ``[num_tokens]``; or, where the ratio is of whole
    responses, over sequences and ``[num_sequences]``.
    """
    ratio = log_ratio.exp()
    return {
        "policy/approxkl_avg": total(0.5 * log_ratio.square(), mask, reduce),
        "loss/policy_avg": total(losses, mask, reduce),
        # About 1, where a float keeps the digits that a variance needs.
        "val/ratio": total(ratio - 1, mask, reduce),
        "val/ratio_var": total((ratio.detach().double() - 1).square(), mask, reduce),
    }


def clip_metrics(log_ratio: Tensor, clipped: Tensor, mask: Tensor, reduce: Reduce = "tokens") -> dict[str, Metric]:
    """TRL's ``clip_ratio/{low,high,region}_mean``: the share whose lower, upper, or either bound binds."""
    shares = {"low": clipped & (log_ratio < 0), "high": clipped & (log_ratio > 0), "region": clipped}
    return {f"clip_ratio/{name}_mean": total(share, mask, reduce) for name, share in shares.items()}


class RatioMetrics:
    """For losses whose reduced metrics are those of `ratio_metrics`."""

    def finalize(self, metrics: dict[str, float]) -> dict[str, float]:
        """From moments about 1 to mean and variance of the ratio."""
        result = dict(metrics)
        if "val/ratio" in result:
            off_one = result["val/ratio"]
            result["val/ratio"] = 1 + off_one
            result["val/ratio_var"] = max(0.0, result["val/ratio_var"] - off_one**2)
        return result
