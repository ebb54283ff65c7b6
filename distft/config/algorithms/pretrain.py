"""Pre-training, and going on with it in another domain or language."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from distft.config.method import SEQUENCES, UPDATE_OF_POLICY, LossOn, Method, NamedLoss, Traits


class Pretrain(Method):
    """Next-token NLL over raw text: ``-sum_t log pi(y_t | y_<t) / tokens``, every token of every document.

    Documents are packed into rows where the model can (``engine.packed``), and none is seen by another. One of more
    than ``data.max_length`` tokens is cut into blocks; a block begins with the last token of the block before, which
    predicts its first.
    """

    traits: ClassVar[Traits] = Traits(
        roles=("policy",),
        trained=("policy",),
        unit=SEQUENCES,
        formats=("text",),
        losses={"policy": NamedLoss("distft.algorithms.losses.pretrain:Pretrain", keys=())},
        phases=(UPDATE_OF_POLICY,),
        dropout=True,
        in_blocks=True,
    )

    kind: Literal["pretrain"] = Field(description="pre-training on raw text, packed, long documents in blocks")

    def learned_tokens(self) -> LossOn | None:
        """All of them."""
        return "all"
