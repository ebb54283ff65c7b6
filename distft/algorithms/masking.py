"""Sums, means and moments over masks. A masked slot may hold NaN or infinity: it never leaks.

Everything selects with ``torch.where`` instead of multiplying by the mask, because
``0 * nan`` is ``nan``, in the value and in the gradient.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


def at_least_float32(values: Tensor) -> Tensor:
    """The same tensor in float32, or in float64 if it is in float64 already."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def keep(values: Tensor, mask: Tensor) -> Tensor:
    """``values`` where ``mask``, else 0. Shapes broadcast; the gradient of dropped slots is 0."""
    return torch.where(mask, values, values.new_zeros(()))


def masked_sum(values: Tensor, mask: Tensor) -> Tensor:
    """Sum of ``values`` over ``mask``: a scalar, 0 if the mask is empty."""
    return keep(values, mask).sum()


def segment_sum(values: Tensor, segments: Tensor, num_segments: int, mask: Tensor) -> Tensor:
    """Sum per sequence of a flat token tensor.

    Args:
        values: ``[num_tokens]``.
        segments: int64 ``[num_tokens]``, the sequence of each token, in ``[0, num_segments)``.
        num_segments: number of sequences; those without tokens get 0.
        mask: bool ``[num_tokens]``.

    Returns:
        ``[num_segments]``, in the dtype of ``values``.
    """
    return values.new_zeros(num_segments).index_add(0, segments, keep(values, mask))


@dataclass(frozen=True)
class Moments:
    """Count, mean and sum of squared deviations. Plain floats: small, picklable, and mergeable over ranks."""

    count: float = 0.0
    mean: float = 0.0
    squares: float = 0.0

    def merge(self, other: Moments) -> Moments:
        """Moments of both samples together (Chan, Golub and LeVeque 1983, eq. 2.1)."""
        count = self.count + other.count
        if count == 0:
            return self
        delta = other.mean - self.mean
        mean = self.mean + delta * other.count / count
        return Moments(count, mean, self.squares + other.squares + delta * delta * self.count * other.count / count)

    @property
    def variance(self) -> float:
        """Unbiased variance; 0 for fewer than two values."""
        return self.squares / (self.count - 1) if self.count > 1 else 0.0


def moments(values: Tensor, mask: Tensor) -> Moments:
    """Moments of ``values`` over ``mask``, accumulated in float64."""
    chosen = torch.masked_select(values.detach(), mask).double()
    if chosen.numel() == 0:
        return Moments()
    mean = chosen.mean()
    return Moments(float(chosen.numel()), mean.item(), (chosen - mean).square().sum().item())


def whiten(values: Tensor, mask: Tensor, over: Moments, *, shift_mean: bool = True, epsilon: float = 1e-8) -> Tensor:
    """Standardise ``values`` over ``mask`` with moments of the whole batch.

    ``(values - mean) / sqrt(variance + epsilon)``, the variance unbiased. Whitening is global
    only if ``over`` is the merge of every rank's `moments`: with one rank's own, results would
    depend on how samples fell on ranks.

    Args:
        values: any shape.
        mask: bool, same shape.
        over: moments of all ranks together.
        shift_mean: False scales only and keeps the mean.
        epsilon: added to the variance.

    Returns:
        Same shape; 0 outside the mask.
    """
    scaled = (values - over.mean) * (over.variance + epsilon) ** -0.5
    return keep(scaled if shift_mean else scaled + over.mean, mask)
