"""Per-token estimators of KL(pi || pi_ref) from one sample, and the adaptive coefficient."""

from __future__ import annotations

from typing import Literal, TypeAlias

import torch
from torch import Tensor

from distft.algorithms.masking import keep

Estimator: TypeAlias = Literal["k1", "k2", "k3"]


def token_kl(logprobs: Tensor, ref_logprobs: Tensor, estimator: Estimator = "k1") -> Tensor:
    """Estimate KL(pi || pi_ref) at tokens sampled from pi (Schulman 2020, "Approximating KL divergence").

    With d = log pi - log pi_ref: k1 = d (unbiased, may be negative); k2 = d^2 / 2 (biased, its
    gradient is not); k3 = exp(-d) - 1 + d (unbiased, never negative). Not clamped: a clamp would
    kill the gradient where the policy is farthest from the reference.

    Args:
        logprobs: any shape, float32.
        ref_logprobs: same shape.
        estimator: k1, k2 or k3.

    Returns:
        Same shape. Slots outside the mask hold whatever the arguments held there.

    Raises:
        ValueError: an unknown estimator.
    """
    difference = logprobs - ref_logprobs
    if estimator == "k1":
        return difference
    if estimator == "k2":
        return difference.square() / 2
    if estimator == "k3":
        # expm1 keeps the digits that exp(-d) - 1 loses near d = 0, where training starts.
        return torch.expm1(-difference) + difference
    raise ValueError(f"unknown KL estimator {estimator!r}; there are k1, k2, k3")


def sequence_kl(logprobs: Tensor, ref_logprobs: Tensor, mask: Tensor) -> Tensor:
    """The sum of log pi - log pi_ref over the tokens of each response: ``[B, T]`` and bool mask to ``[B]``, in nats."""
    return keep(logprobs - ref_logprobs, mask).sum(1)


def mean_token_kl(logprobs: Tensor, ref_logprobs: Tensor, mask: Tensor) -> float:
    """The mean of log pi - log pi_ref over the response tokens of all rows, ``[B, T]`` each, in nats; 0 without any."""
    return float(keep(logprobs - ref_logprobs, mask).double().sum() / mask.sum().clamp(min=1))


def adapted_kl_coef(kl_coef: float, observed: float, *, target: float, horizon: float, num_samples: int) -> float:
    """The next coefficient of the adaptive controller. The coefficient itself is all its state.

    ``kl_coef (1 + clip(observed / target - 1, -0.2, 0.2) num_samples / horizon)``:
    Ziegler et al. 2019, section 2.2.

    Args:
        kl_coef: coefficient used for the samples observed.
        observed: their mean KL per *sequence* (sum over response tokens), in nats.
        target: KL per sequence to steer to, above 0.
        horizon: samples over which the coefficient adapts, above 0.
        num_samples: sequences observed, over all ranks.

    Raises:
        ValueError: a target or horizon not above 0.
    """
    if not target > 0 or not horizon > 0:
        raise ValueError(f"kl target and horizon must be above 0, not {target} and {horizon}")
    error = min(max(observed / target - 1, -0.2), 0.2)
    return kl_coef * (1 + error * num_samples / horizon)
