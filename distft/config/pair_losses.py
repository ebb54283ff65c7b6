"""What DPO's losses are built with, and the reference that they pull towards: of given pairs and of sampled ones."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Annotated, Literal, TypeAlias

from pydantic import Field

from distft.config.method import FirstLoss, Method, Renewal, Run
from distft.config.problem import Problem
from distft.config.section import Usual

DpoLoss: TypeAlias = Literal[
    "sigmoid", "hinge", "ipo", "robust", "exo_pair", "nca_pair", "sppo_hard",
    "apo_zero", "apo_down", "bco_pair", "discopop", "sigmoid_norm",
]  # fmt: skip
LOSS_KEYS = ("beta", "loss", "label_smoothing", "discopop_tau", "rpo_alpha")
_SMOOTHED = ("sigmoid", "robust", "exo_pair")


class PairLosses(Method):
    """The base of every method that learns from pairs by a loss of ``distft.algorithms.losses.dpo``."""

    beta: Annotated[float, Usual(0.1, 0.5)] = Field(
        default=0.1, gt=0, le=100, description="strength of the pull towards the reference; 0.1 to 0.5 is usual"
    )
    loss: DpoLoss = Field(default="sigmoid", description="loss of a pair, names as in TRL")
    label_smoothing: float = Field(
        default=0.0, ge=0, lt=0.5, description="assumed share of flipped labels (sigmoid, robust, exo_pair)"
    )
    discopop_tau: float = Field(default=0.05, gt=0, description="temperature of the blend of the discopop loss")
    sync_every: int = Field(
        default=0, ge=0, description="steps after which the reference follows the policy (TR-DPO); 0: it never does"
    )
    sync_alpha: float = Field(
        default=0.6, gt=0, le=1,
        description="the policy's share in the reference that follows it, the rest is its own; 1: a copy",
    )  # fmt: skip
    rpo_alpha: float = Field(default=0.0, ge=0, description="weight of the chosen response's NLL per token added (RPO)")

    def rules(self, run: Run) -> Iterator[Problem]:
        """Keys that only some of the losses have."""
        yield from super().rules(run)
        if self.label_smoothing > 0 and self.loss not in _SMOOTHED:
            yield Problem.at(
                "algorithm.label_smoothing",
                f"has no effect on the loss {self.loss}",
                f"0, or loss: {', '.join(_SMOOTHED)}",
            )
        if not self.sync_every and self.sync_alpha != type(self).model_fields["sync_alpha"].default:
            yield Problem.at("algorithm.sync_alpha", "has no effect: the reference stays", "add sync_every: 512")
        if self.loss != "discopop" and self.discopop_tau != type(self).model_fields["discopop_tau"].default:
            yield Problem.at(
                "algorithm.discopop_tau", f"has no effect on the loss {self.loss}", "loss: discopop, or remove it"
            )
        if self.loss == "exo_pair" and self.label_smoothing == 0:
            yield Problem.at("algorithm.label_smoothing", "exo_pair is not defined at 0", "0.001, as in the paper")

    def renewal(self) -> Renewal | None:
        """TR-DPO (Gorbatovski et al. 2024): soft updates, with a share of 1 hard ones."""
        return Renewal(self.sync_every, self.sync_alpha) if self.sync_every else None

    def first_loss(self) -> FirstLoss | None:
        """ln 2 for the sigmoid loss, whatever the smoothing; RPO's second term is not known beforehand."""
        if self.loss != "sigmoid" or self.rpo_alpha:
            return None
        return FirstLoss(math.log(2), slope=self.beta)
