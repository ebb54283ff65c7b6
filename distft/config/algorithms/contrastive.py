"""Embeddings of texts, learned by telling a text's own counterpart from all others."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal

from pydantic import Field

from distft.config.data import ANCHORED, MOST_ANSWERS
from distft.config.method import TUPLES, Method, NamedLoss, Phase, Pooling, Run, Traits, Work
from distft.config.problem import Problem


class Contrastive(Method):
    """``-log softmax(cos(anchor, text) / temperature)`` of the positive among the positives and negatives of all rows
    of an optimizer step, over all ranks (InfoNCE: van den Oord et al. 2018; with hard negatives: Gao et al. 2021).

    Every text is read twice: what is to be learned of one follows from all others, however they are dealt out to ranks
    and micro-batches (Gao et al. 2021b, GradCache). So dropout is off: both times it is the same text.
    """

    traits: ClassVar[Traits] = Traits(
        roles=("policy",),
        trained=("policy",),
        unit=TUPLES,
        formats=ANCHORED,
        losses={
            "policy": NamedLoss("distft.algorithms.losses.contrastive:Contrastive", keys=("temperature", "pooling"))
        },
        phases=(Phase("embeddings", (Work("policy", "forward"),)), Phase("update", (Work("policy", "update"),))),
        embeds=True,
    )

    kind: Literal["contrastive"] = Field(description="embeddings of texts for search, by contrast (InfoNCE)")
    temperature: float = Field(
        default=0.05, gt=0, le=10, description="cosines are divided by it: the less, the more the nearest ones count"
    )
    pooling: Pooling = Field(
        default="mean",
        description="a text's vector: the mean of its states, its first token's (cls), or its last one's",
    )
    max_negatives: int = Field(
        default=0, ge=0, le=MOST_ANSWERS - 2, description="most hard negatives of a row, which share its micro-batch"
    )

    def rules(self, run: Run) -> Iterator[Problem]:
        """Something must be told from something else."""
        if run.train.global_batch_size < 2 and not self.max_negatives:
            what = "1 leaves no other row to tell a row's positive from"
            yield Problem.at("train.global_batch_size", what, "at least 2, better 32 or more")

    def unit_rows(self) -> int:
        """The anchor, its positive and its negatives."""
        return 2 + self.max_negatives

    def pools(self) -> Pooling:
        """``pooling``."""
        return self.pooling
