"""Supervised fine-tuning."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from distft.config.data import ANSWERED, PAIRED, TURNS
from distft.config.given_answers import GivenAnswers
from distft.config.method import SEQUENCES, UPDATE_OF_POLICY, NamedLoss, Traits


class Sft(GivenAnswers):
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
    neftune_alpha: float = Field(
        default=0.0, ge=0, le=1000,
        description="noise on the embeddings of what is trained on, uniform up to alpha / sqrt(tokens of the row x "
        "width) (NEFTune, 5 to 15 in the paper); 0: none",
    )  # fmt: skip

    def embedding_noise(self) -> float:
        """``neftune_alpha``."""
        return self.neftune_alpha
