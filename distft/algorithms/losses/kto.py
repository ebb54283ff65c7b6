"""Kahneman-Tversky optimisation: a good answer likelier than the reference makes it, a bad one less, by more than what
the policy says has moved anyway."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from distft.algorithms.losses.base import LossBatch, LossResult, total
from distft.algorithms.losses.mean_logits import divided, mean_logits
from distft.algorithms.masking import at_least_float32, masked_sum, segment_sum

_COUNTS = {"chosen": "num_answers/chosen", "rejected": "num_answers/rejected"}


@dataclass(frozen=True)
class Kto:
    """``w_d (1 - s(beta (r - z)))`` of a good answer, ``w_u (1 - s(beta (z - r)))`` of a bad one: their mean.

    Ethayarajh et al. 2024, eq. 7 and 8: r = log pi - log pi_ref summed over the response, s = sigmoid, w the weights,
    z the KL baseline of the optimizer step, column ``baseline``: at least 0, without a gradient.

    Metrics (TRL's names): ``rewards/{chosen,rejected}`` means of beta r over good and bad answers, their difference
    ``rewards/margins``; ``logps/{chosen,rejected}`` means of log pi summed over the response; ``logits/*`` as
    of `Dpo`; ``kl`` z. Beside TRL's, ``rewards/accuracies``: the share of answers on their side of z, good ones above
    it, bad ones below.
    """

    beta: float = 0.1
    desirable_weight: float = 1.0
    undesirable_weight: float = 1.0

    outputs: ClassVar[tuple[str, ...]] = ("logprobs", "logits_mean")
    reads: ClassVar[Literal["tokens", "last"]] = "tokens"
    columns: ClassVar[tuple[str, ...]] = ("ref_logprobs", "label", "baseline")
    optional_columns: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        if not min(self.beta, self.desirable_weight, self.undesirable_weight) > 0:
            raise ValueError(f"beta and the weights must be above 0, not {self}")

    def __call__(
        self, outputs: Mapping[str, Tensor], batch: LossBatch, denominators: Mapping[str, float]
    ) -> LossResult:
        """See `Loss`."""
        logprobs, mask, real = at_least_float32(outputs["logprobs"]), batch.token_mask, batch.sequence_mask
        # Token by token first: the difference of two long sums would lose digits.
        ratios = segment_sum(logprobs - batch.column("ref_logprobs"), batch.segments, batch.num_sequences, mask)
        logps = segment_sum(logprobs, batch.segments, batch.num_sequences, mask)
        good, baseline = batch.column("label") > 0.5, batch.column("baseline")
        gain = torch.where(good, 1.0, -1.0) * (ratios - baseline)
        weight = torch.where(good, self.desirable_weight, self.undesirable_weight)
        loss = masked_sum(weight * torch.sigmoid(-self.beta * gain), real) / denominators["units"]
        metrics = {"kl": total(baseline, real, "units"), "rewards/accuracies": total(gain > 0, real, "units")}
        for name, of_side in (("chosen", real & good), ("rejected", real & ~good)):
            metrics[f"rewards/{name}"] = total(self.beta * ratios, of_side, "sum")
            metrics[f"logps/{name}"] = total(logps, of_side, "sum")
            metrics[_COUNTS[name]] = total(torch.ones_like(ratios), of_side, "sum")
        return LossResult(loss, metrics | mean_logits(outputs, mask, good[batch.segments]))

    def finalize(self, metrics: dict[str, float]) -> dict[str, float]:
        """Divides what is of good or bad answers by their own counts; without one of a sort there is no mean of it."""
        result = divided(metrics)
        for name, count in _COUNTS.items():
            number = result.pop(count)
            for kind in ("rewards", "logps"):
                value = result.pop(f"{kind}/{name}")
                if number:
                    result[f"{kind}/{name}"] = value / number
        if {"rewards/chosen", "rewards/rejected"} <= result.keys():
            result["rewards/margins"] = result["rewards/chosen"] - result["rewards/rejected"]
        return result
