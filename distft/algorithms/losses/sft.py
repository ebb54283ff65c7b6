"""Supervised fine-tuning: the negative log-likelihood of target tokens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from distft.algorithms.losses.base import LossBatch, LossResult, Metric, PlainMetrics, total
from distft.algorithms.masking import masked_sum


@dataclass(frozen=True)
class Sft(PlainMetrics):
    """``-sum_t log pi(y_t | x, y_<t) / tokens``: every target token of the step weighs the same.

    Metric: ``entropy``, the token mean of the policy's entropy (as TRL logs it), if the model returned it.
    """

    outputs: ClassVar[tuple[str, ...]] = ("logprobs", "entropy")
    reads: ClassVar[Literal["tokens", "last"]] = "tokens"
    columns: ClassVar[tuple[str, ...]] = ()
    optional_columns: ClassVar[tuple[str, ...]] = ()

    def __call__(
        self, outputs: Mapping[str, Tensor], batch: LossBatch, denominators: Mapping[str, float]
    ) -> LossResult:
        """See `Loss`."""
        mask = batch.token_mask
        metrics: dict[str, Metric] = {}
        if "entropy" in outputs:
            metrics["entropy"] = total(outputs["entropy"], mask, "tokens")
        return LossResult(-masked_sum(outputs["logprobs"], mask) / denominators["tokens"], metrics)
