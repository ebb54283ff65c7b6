"""Supervised fine-tuning."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal

from pydantic import Field

from distft.config.data import ANSWERED, PAIRED, TURNS
from distft.config.method import SEQUENCES, UPDATE_OF_POLICY, LossOn, Method, NamedLoss, Run, Traits
from distft.config.problem import Problem


class Sft(Method):
    """Supervised fine-tuning: token NLL over the target tokens."""

    traits: ClassVar[Traits] = Traits(
        roles=("policy",),
        trained=("policy",),
        unit=SEQUENCES,
        formats=(*TURNS, *ANSWERED, *PAIRED, "text"),
        losses={"policy": NamedLoss("distft.algorithms.losses.sft:Sft", keys=())},
        phases=(UPDATE_OF_POLICY,),
        dropout=True,
    )

    kind: Literal["sft"] = Field(description="supervised fine-tuning")
    loss_on: LossOn | None = Field(
        default=None,
        description="tokens that are learned; null: completion for prompt+completion, assistant for messages, "
        "all for plain text",
    )

    def rules(self, run: Run) -> Iterator[Problem]:
        """Plain text has no part that could be learned alone."""
        if self.loss_on not in ("completion", "assistant"):
            return
        for index, source in enumerate(run.data.train):
            if source.format == "text":
                yield Problem.at(
                    "algorithm.loss_on", f"data.train.{index} is plain text: it has no {self.loss_on}", "all"
                )

    def learned_tokens(self) -> LossOn | None:
        """``loss_on``."""
        return self.loss_on
