"""Odds-ratio preference optimisation: imitate the chosen answer, and make its odds higher than the rejected one's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from distft.algorithms.losses.base import LossBatch, LossResult, PlainMetrics, total
from distft.algorithms.losses.pairwise import mean_logprobs, pair_metrics, pairs
from distft.algorithms.masking import at_least_float32, masked_sum


@dataclass(frozen=True)
class Orpo(PlainMetrics):
    """``NLL(chosen) + beta x -logsig(log odds ratio)``. Hong et al. 2024, eq. 6 and 7; ``beta`` is their lambda.

    With p_w, p_l the mean log-probability of a response token of chosen and rejected, the log odds ratio is
    ``(p_w - p_l) - (log(1 - exp p_w) - log(1 - exp p_l))``. NLL is ``-p_w``, as in the
    paper: over the answer's tokens, and every pair weighs the same (TRL 1.16 takes the prompt's tokens too, all in one
    mean).

    Metrics, means over pairs (TRL's names): ``nll_loss``, ``log_odds_chosen`` the log odds ratio, ``log_odds_ratio``
    its logsig; ``rewards/{chosen,rejected}`` beta x p, ``rewards/accuracies``, ``rewards/margins``;
    ``logps/{chosen,rejected}`` p.
    """

    beta: float = 0.1

    outputs: ClassVar[tuple[str, ...]] = ("logprobs",)
    reads: ClassVar[Literal["tokens", "last"]] = "tokens"
    columns: ClassVar[tuple[str, ...]] = ()
    optional_columns: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        if not self.beta > 0:
            raise ValueError(f"beta must be above 0, not {self.beta}")

    def __call__(
        self, outputs: Mapping[str, Tensor], batch: LossBatch, denominators: Mapping[str, float]
    ) -> LossResult:
        """See `Loss`. Sequences come as chosen, rejected, chosen, ..."""
        logprobs = at_least_float32(outputs["logprobs"])
        if dummy := pairs(batch, logprobs):
            return dummy
        means = mean_logprobs(logprobs, batch)
        chosen, rejected = means.chosen, means.rejected
        log_odds = (chosen - rejected) - (_log1mexp(chosen) - _log1mexp(rejected))
        preference = F.logsigmoid(log_odds)
        loss = masked_sum(-chosen - self.beta * preference, means.count) / denominators["units"]
        odds = {"nll_loss": -chosen, "log_odds_chosen": log_odds, "log_odds_ratio": preference}
        metrics = {name: total(value, means.count, "units") for name, value in odds.items()}
        rewards = (self.beta * chosen, self.beta * rejected)
        return LossResult(loss, metrics | pair_metrics(rewards, (chosen, rejected), means.count))


def _log1mexp(x: Tensor) -> Tensor:
    """log(1 - exp x) of x below 0, from the side that keeps its digits (Maechler 2012). A token that is certain (x = 0)
    is taken as one that is almost."""
    x = x.clamp(max=-torch.finfo(x.dtype).eps)
    near = x > -0.6931471805599453  # -ln 2
    return torch.where(
        near, torch.log(-torch.expm1(torch.where(near, x, -1.0))), torch.log1p(-torch.exp(torch.where(near, -1.0, x)))
    )
