"""Equality within NUMERICS' tolerances, and how far apart two answers were."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from torch import Tensor

_SQUARES = {"val/ratio_var"}


def largest_metric_difference(
    got: Sequence[Mapping[str, float]], expected: Sequence[Mapping[str, float]], names: Sequence[str] | None = None
) -> tuple[float, str]:
    """The largest ``|a - b| / max(1, |b|)`` over steps and ``names``, and whose it is; half as much of a
    mean of squares above 1: its relative error is twice that of what is squared.

    ``names`` None: all of ``expected``. AssertionError for another number of steps or a missing metric.
    """
    assert len(got) == len(expected), f"{len(got)} steps, not {len(expected)}"
    worst = (0.0, "")
    for step, (mine, theirs) in enumerate(zip(got, expected, strict=True)):
        for name in theirs if names is None else names:
            assert name in mine, f"step {step}: no {name} among {sorted(mine)}"
            distance = abs(mine[name] - theirs[name]) / max(1.0, abs(theirs[name]))
            if name in _SQUARES and abs(theirs[name]) > 1:
                distance /= 2
            worst = max(worst, (math.inf if math.isnan(distance) else distance, f"step {step}: {name}"))
    return worst


def largest_weight_difference(
    got: Mapping[str, Tensor], expected: Mapping[str, Tensor], learning_rate: float
) -> tuple[float, str]:
    """The largest ``|a - b| / (1e-4 |b| + 0.01 x learning rate)`` of any weight, so at most 1 where they are equal."""
    assert set(got) == set(expected), set(got) ^ set(expected)
    worst = (0.0, "")
    for name, theirs in expected.items():
        allowed = 1e-4 * theirs.double().abs() + 0.01 * learning_rate
        share = float(((got[name].double() - theirs.double()).abs() / allowed).max())
        worst = max(worst, (math.inf if math.isnan(share) else share, name))
    return worst


def largest_norm_difference(got: Mapping[str, float], expected: Mapping[str, float]) -> tuple[float, str]:
    """The largest relative difference of a tensor's gradient norm."""
    assert set(got) == set(expected), set(got) ^ set(expected)
    return max((abs(got[name] - norm) / max(norm, 1e-12), name) for name, norm in expected.items())


def at_most(limit: float) -> tuple[float, str]:
    """Not below any difference up to ``limit``, whosever it is."""
    return limit, "~"
