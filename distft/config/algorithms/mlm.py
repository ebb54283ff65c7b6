"""Masked language modelling: how BERT was pre-trained."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from distft.config.method import SEQUENCES, UPDATE_OF_POLICY, Method, NamedLoss, Traits


class Mlm(Method):
    """NLL of the tokens chosen to be masked, ``-sum_t log pi(x_t | corrupted x) / chosen`` (Devlin et al. 2019)."""

    traits: ClassVar[Traits] = Traits(
        roles=("policy",),
        trained=("policy",),
        unit=SEQUENCES,
        formats=("text",),
        losses={"policy": NamedLoss("distft.algorithms.losses.sft:Sft", keys=())},
        phases=(UPDATE_OF_POLICY,),
        dropout=True,
        corrupts="masks",
    )

    kind: Literal["mlm"] = Field(description="masked language modelling on raw text, for encoders")
    masked: float = Field(
        default=0.15, gt=0, lt=1,
        description="share of a text's tokens that is learned: of those 80 % are masked, 10 % other tokens, 10 % as "
        "they are",
    )  # fmt: skip
    whole_words: bool = Field(default=False, description="a word's tokens are chosen together, or none of them")

    def corruption(self) -> tuple[str, dict[str, Any]]:
        """See ``MaskedTokens``."""
        keys = {"masked": self.masked, "whole_words": self.whole_words}
        return "distft.data.masked_tokens:MaskedTokens", keys
