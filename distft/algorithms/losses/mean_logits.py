"""The mean logit over the vocabulary at the tokens of chosen and of rejected answers: how far logits drift."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from distft.algorithms.losses.base import Metric, total

_COUNTS = {"logits/chosen": "num_tokens/chosen", "logits/rejected": "num_tokens/rejected"}


def mean_logits(outputs: Mapping[str, Tensor], mask: Tensor, chosen: Tensor) -> dict[str, Metric]:
    """Sums and counts of ``logits_mean``, where a model gives it, for ``divided``: neither count is a global
    denominator. ``mask`` and ``chosen`` (of a chosen answer) are bool ``[num_tokens]``."""
    if "logits_mean" not in outputs:
        return {}
    found = outputs["logits_mean"]
    found_in = {"logits/chosen": mask & chosen, "logits/rejected": mask & ~chosen}
    sums = {name: total(found, tokens, "sum") for name, tokens in found_in.items()}
    return sums | {_COUNTS[name]: total(torch.ones_like(found), tokens, "sum") for name, tokens in found_in.items()}


def divided(metrics: Mapping[str, float]) -> dict[str, float]:
    """The reduced metrics with ``logits/*`` divided by their own token counts."""
    result = dict(metrics)
    for name, count in _COUNTS.items():
        if name in result:
            result[name] /= max(result.pop(count), 1.0)
    return result
