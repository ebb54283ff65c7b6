"""Language modelling: the loss of supervised fine-tuning, said as perplexity too."""

from __future__ import annotations

import math
from dataclasses import dataclass

from distft.algorithms.losses.sft import Sft

_LARGEST = 700.0  # nats: e to more than that is no number


@dataclass(frozen=True)
class Pretrain(Sft):
    """``-sum_t log pi(y_t | y_<t) / tokens``. Metric beside ``Sft``'s: ``perplexity``, e to the loss."""

    def finalize(self, metrics: dict[str, float]) -> dict[str, float]:
        """With ``perplexity``: that of all tokens of the step, not a mean over micro-batches."""
        found = super().finalize(metrics)
        return found | {"perplexity": math.exp(min(found["loss"], _LARGEST))} if "loss" in found else found
