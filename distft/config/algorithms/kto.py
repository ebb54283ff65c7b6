"""Kahneman-Tversky optimisation."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal

from pydantic import Field

from distft.config.data import LABELLED, PAIRED
from distft.config.method import ANSWERS, KL_BASELINE, FirstLoss, Method, NamedLoss, Phase, Run, Traits, Work
from distft.config.problem import Problem

# What the good answers weigh in all should be so many times what the bad ones do (Ethayarajh et al. 2024, eq. 8).
BALANCE = (1.0, 4 / 3)


class Kto(Method):
    """Kahneman-Tversky optimisation: answers that are good or bad by themselves, without pairs (Ethayarajh et al.
    2024)."""

    # The reference is frozen: it reads the next answers while the policy learns from these.
    traits: ClassVar[Traits] = Traits(
        roles=("policy", "reference"),
        trained=("policy",),
        unit=ANSWERS,
        formats=(*LABELLED, *PAIRED),
        losses={"policy": NamedLoss("distft.algorithms.losses.kto:Kto")},
        phases=(KL_BASELINE, Phase("update", (Work("policy", "update"), Work("reference", "forward", ahead=True)))),
        aligns=True,
    )

    kind: Literal["kto"] = Field(description="Kahneman-Tversky optimisation")
    beta: float = Field(default=0.1, gt=0, le=100, description="strength of the pull towards the reference")
    desirable_weight: float = Field(default=1.0, gt=0, description="weight of an answer that is labelled good")
    undesirable_weight: float = Field(default=1.0, gt=0, description="weight of an answer that is labelled bad")

    def rules(self, run: Run) -> Iterator[Problem]:
        """The baseline is made of other rows' answers."""
        if run.train.global_batch_size < 2:
            what = "1 leaves no other answer to measure an answer against"
            yield Problem.at("train.global_batch_size", what, "at least 2, better 8 or more")

    def on_labels(self, good: int, bad: int) -> Iterator[str]:
        """One sort only, or weights that do not make up for how many there are of each."""
        if not good or not bad:
            yield f"all {good + bad} answers are labelled {'good' if good else 'bad'}: nothing tells the two apart"
            return
        low, high = BALANCE
        wanted = (low + high) / 2 * self.undesirable_weight * bad / good
        ratio = self.desirable_weight * good / (self.undesirable_weight * bad)
        if not low <= round(ratio, 2) <= round(high, 2):
            # The one that weighs too little gets more, so that no step becomes smaller than it was.
            key, value = "desirable_weight", wanted
            if wanted < self.desirable_weight:
                key, value = "undesirable_weight", self.desirable_weight * good / ((low + high) / 2 * bad)
            yield (
                f"{good} good answers and {bad} bad ones: by their weights the good ones count {ratio:.2f} times what "
                f"the bad ones do, the paper recommends 1 to 1.33: algorithm.{key}={value:.3g}"
            )

    def first_loss(self) -> FirstLoss | None:
        """Half the weight, where good and bad have the same."""
        if self.desirable_weight != self.undesirable_weight:
            return None
        return FirstLoss(self.desirable_weight / 2, slope=self.beta * self.desirable_weight / 4)
