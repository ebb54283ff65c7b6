"""How true a model that was made smaller is to what it was: on the same texts, token by token."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from distft.batches import Array

_AT_ONCE = 256  # tokens whose distributions are held in float64


@dataclass(frozen=True)
class Fidelity:
    """Over ``num_tokens`` next tokens: the perplexity before and after; ``divergence``, the mean of KL(before || after)
    in nats; ``agreement``, the share at which both take the same token for the likeliest."""

    num_tokens: int
    before: float
    after: float
    divergence: float
    agreement: float


@torch.no_grad()
def fidelity(plain: Any, smaller: Any, texts: Sequence[Array]) -> Fidelity:
    """Of two causal models of transformers, on one device, over ``texts``: ids, ``[length]`` each, two or more."""
    sums = torch.zeros(4, dtype=torch.float64)
    count = 0
    for text in texts:
        ids = torch.as_tensor(text, dtype=torch.long, device=plain.device).unsqueeze(0)
        logits = [torch.split(model(input_ids=ids).logits[0, :-1], _AT_ONCE) for model in (plain, smaller)]
        for one, other, told in zip(*logits, torch.split(ids[0, 1:, None], _AT_ONCE), strict=True):
            before, after = (some.double().log_softmax(-1) for some in (one, other))
            apart = (before.exp() * (before - after)).sum()
            same = (before.argmax(-1) == after.argmax(-1)).sum()
            sums += torch.stack([-before.gather(1, told).sum(), -after.gather(1, told).sum(), apart, same]).cpu()
            count += len(told)
    means = (sums / count).tolist()
    return Fidelity(count, math.exp(means[0]), math.exp(means[1]), means[2], means[3])
