"""Learning-rate schedules: pure functions of the optimizer step, so nothing of them needs to be saved."""

from __future__ import annotations

import math

from distft.config.optimizers.optimizer import Optimizer


def learning_rate(optimizer: Optimizer, step: int, total_steps: int) -> float:
    """The rate of the optimizer step number ``step`` (from 0) of ``total_steps``.

    Linear warm-up from 0 over ``warmup_steps``, then constant, linear or half a cosine down to
    ``min_ratio`` times the peak (Loshchilov and Hutter 2017 for the cosine).
    """
    peak, warmup = optimizer.learning_rate, optimizer.warmup_steps
    if step < warmup:
        return peak * step / max(1, warmup)
    if optimizer.schedule == "constant":
        return peak
    progress = min(1.0, (step - warmup) / max(1, total_steps - warmup))
    shape = 1.0 - progress if optimizer.schedule == "linear" else 0.5 * (1.0 + math.cos(math.pi * progress))
    return peak * (optimizer.min_ratio + (1.0 - optimizer.min_ratio) * shape)
