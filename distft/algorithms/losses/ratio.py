"""What the losses over the ratio pi / pi_old have in common: their metrics."""

from __future__ import annotations

from torch import Tensor

from distft.algorithms.losses.base import Metric, Reduce, total


def ratio_metrics(
    log_ratio: Tensor, clipped: Tensor, losses: Tensor, mask: Tensor, reduce: Reduce = "tokens"
) -> dict[str, Metric]:
    """Means of the step: ``policy/approxkl_avg`` 1/2 (log r)^2, ``policy/clipfrac_avg``, ``loss/policy_avg``,
    ``val/ratio`` mean of r and ``val/ratio_var`` its variance. Over tokens, all arguments ``[num_tokens]``; or, where
    the ratio is of whole responses, over sequences and ``[num_sequences]``.
    """
    ratio = log_ratio.exp()
    return {
        "policy/approxkl_avg": total(0.5 * log_ratio.square(), mask, reduce),
        "policy/clipfrac_avg": total(clipped, mask, reduce),
        "loss/policy_avg": total(losses, mask, reduce),
        # About 1, where a float keeps the digits that a variance needs.
        "val/ratio": total(ratio - 1, mask, reduce),
        "val/ratio_var": total((ratio.detach().double() - 1).square(), mask, reduce),
    }


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
