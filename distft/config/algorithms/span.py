"""Span corruption: how T5 was pre-trained."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from distft.config.data import Data
from distft.config.method import SEQUENCES, UPDATE_OF_POLICY, Method, NamedLoss, Traits


def num_taken(length: int, noise: float, mean_span: float) -> tuple[int, int]:
    """Tokens taken out of a text of so many (2 or more), and spans that they are taken in; neither is fewer of a longer
    text. Raffel et al. 2020, ``random_spans_noise_mask``."""
    taken = min(max(round(length * noise), 1), length - 1)
    return taken, min(max(round(taken / mean_span), 1), taken, length - taken)


class Span(Method):
    """NLL of the spans taken out of a text, ``-sum_t log pi(y_t | x, y_<t) / tokens`` (Raffel et al. 2020)."""

    traits: ClassVar[Traits] = Traits(
        roles=("policy",),
        trained=("policy",),
        unit=SEQUENCES,
        formats=("text",),
        losses={"policy": NamedLoss("distft.algorithms.losses.sft:Sft", keys=())},
        phases=(UPDATE_OF_POLICY,),
        dropout=True,
        corrupts="spans",
    )

    kind: Literal["span"] = Field(description="span corruption on raw text, for T5 and its kin")
    noise: float = Field(default=0.15, gt=0, lt=1, description="share of a text's tokens that is taken out")
    mean_span: float = Field(default=3.0, ge=1, le=100, description="tokens of a span that is taken out, on average")

    def sides(self, data: Data) -> tuple[int, int]:
        """See ``Method``: of a text of ``data.max_length`` what is left with a sentinel for each span, and the spans
        with theirs, both ended."""
        taken, spans = num_taken(data.max_length, self.noise, self.mean_span)
        return data.max_length - taken + spans + 1, taken + spans + 1

    def corruption(self) -> tuple[str, dict[str, Any]]:
        """See ``SpanCorruption``."""
        keys = {"noise": self.noise, "mean_span": self.mean_span}
        return "distft.data.span_corruption:SpanCorruption", keys
