"""AdamW whose moments rest in bfloat16."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from distft.engine.rules.chunks import in_chunks
from distft.engine.rules.one_by_one import OneByOne

_DROPPED_BITS = 16


class RoundedAdamW(OneByOne):
    """AdamW (Loshchilov and Hutter 2019) computed in float32, its two moments kept in bfloat16 between steps.

    To the nearest bfloat16 a second moment would never fall: with beta2 = 0.999 a step takes 0.1 % off it, and half
    of its last digit is 0.2 to 0.4 %. So it is rounded up or down at random, as often as it is near (Gupta et al.
    2015; of weights Zamirai et al. 2020), by numbers that depend on the step only: a run that goes on draws the same.
    """

    def __init__(self, groups: Iterable[dict[str, Any]], lr: float, betas: tuple[float, float], eps: float) -> None:
        super().__init__(groups, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": 0.0})

    def update(self, group: dict[str, Any], weight: Tensor, gradient: Tensor) -> None:
        """One step of a weight; the moments are rounded at random by numbers of this step."""
        state = self.state[weight]
        if not state:
            state["step"] = torch.zeros(())
            state["exp_avg"], state["exp_avg_sq"] = (torch.zeros_like(weight, dtype=torch.bfloat16) for _ in range(2))
        state["step"] += 1
        step = int(state["step"])
        rate, (beta1, beta2) = group["lr"], group["betas"]
        random = torch.Generator(weight.device).manual_seed(step)
        whole = (weight, gradient, state["exp_avg"], state["exp_avg_sq"])
        for part, slope, kept_first, kept_second in in_chunks(*whole):  # in float32 all would take what bfloat16 saves
            first = kept_first.float().lerp_(slope, 1 - beta1)
            second = kept_second.float().mul_(beta2).addcmul_(slope, slope, value=1 - beta2)
            scale = second.sqrt().div_((1 - beta2**step) ** 0.5).add_(group["eps"])
            part.mul_(1 - rate * group["weight_decay"]).addcdiv_(first, scale, value=-rate / (1 - beta1**step))
            kept_first.copy_(_rounded(first, random))
            kept_second.copy_(_rounded(second, random))


def _rounded(values: Tensor, random: torch.Generator) -> Tensor:
    """Float32 values that bfloat16 can hold: a neighbour above or below, as likely as the value is near to it."""
    bits = values.view(torch.int32)
    dropped = torch.empty_like(bits).random_(0, 1 << _DROPPED_BITS, generator=random)
    return (bits + dropped >> _DROPPED_BITS << _DROPPED_BITS).view(torch.float32)
