"""What a loss takes and gives. Token tensors are flat: all response tokens of a micro-batch, concatenated."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias, runtime_checkable

from torch import Tensor

from distft.algorithms.masking import at_least_float32, keep
from distft.algorithms.measured import Measure

Pooling: TypeAlias = Literal["mean", "cls", "last"]
Reads: TypeAlias = Literal["tokens"] | Pooling
Reduce: TypeAlias = Literal["tokens", "sequences", "units", "ptx_tokens", "sum", "min", "max"]


@dataclass(frozen=True)
class LossBatch:
    """The experience of one micro-batch.

    Attributes:
        response_mask: bool ``[num_tokens]``; False = observation or other speaker, not trained on.
        segments: int64 ``[num_tokens]``: the sequence a token belongs to.
        sequence_mask: bool ``[num_sequences]``; False for dummies, which weigh nothing.
        columns: float ``[num_tokens]`` or ``[num_sequences]``, named as in `distft.batches`; ``[num_tokens, width]``
            where a token has several, and int64 where those are whole numbers.
    """

    response_mask: Tensor
    segments: Tensor
    sequence_mask: Tensor
    columns: Mapping[str, Tensor]

    @property
    def num_sequences(self) -> int:
        return self.sequence_mask.shape[0]

    @property
    def token_mask(self) -> Tensor:
        """bool ``[num_tokens]``: real tokens of real sequences."""
        return self.response_mask & self.sequence_mask[self.segments]

    def column(self, name: str) -> Tensor:
        """The column, in float32 at least. Raises ValueError naming the columns there are."""
        if name not in self.columns:
            raise ValueError(f"the loss needs the column {name!r}; the experience has {sorted(self.columns)}")
        return at_least_float32(self.columns[name])


@dataclass(frozen=True)
class Metric:
    """A detached float64 scalar of one micro-batch and how it is reduced over micro-batches and ranks.

    ``tokens``, ``sequences``, ``units``, ``ptx_tokens``: a sum, to be added up and divided by that global
    denominator. ``sum``: added up. ``min``, ``max``: the extreme (a dummy gives +-inf).
    """

    value: Tensor
    reduce: Reduce


@dataclass(frozen=True)
class LossResult:
    """``loss`` is divided by its global denominator already: summed over micro-batches and ranks it is *the* loss."""

    loss: Tensor
    metrics: dict[str, Metric]


class Loss(Protocol):
    """A pure function from model outputs and experience to a loss and its metrics."""

    @property
    def outputs(self) -> tuple[str, ...]:
        """What the model must return: ``logprobs``, ``entropy``, ``logits_mean``, ``values`` or ``embeddings``."""

    @property
    def reads(self) -> Reads:
        """Where outputs are read: ``tokens`` = ``[num_tokens]``, at the position *before* each response
        token; ``last`` = ``[num_sequences]``, at each sequence's last token; ``cls`` at its first, ``mean`` at all."""

    @property
    def columns(self) -> tuple[str, ...]:
        """Experience columns without which the loss raises ValueError."""

    @property
    def optional_columns(self) -> tuple[str, ...]:
        """Experience columns used when they are there."""

    def __call__(
        self, outputs: Mapping[str, Tensor], batch: LossBatch, denominators: Mapping[str, float]
    ) -> LossResult:
        """The loss of one micro-batch.

        Args:
            outputs: see `outputs` and `reads`.
            batch: the experience.
            denominators: counts over all ranks and micro-batches of the optimizer step:
                ``tokens`` (masked response tokens), ``sequences`` and ``units`` (real ones), none of them of rows
                whose column ``ptx`` is 1: their tokens are ``ptx_tokens``.
        """

    def finalize(self, metrics: dict[str, float]) -> dict[str, float]:
        """Metrics of the step from the reduced ones: ratios of sums, variances. No helper names remain."""


@runtime_checkable
class MeasuringLoss(Loss, Protocol):
    """A loss that asks more of tokens than the house knows: some of its ``outputs`` are a measure's."""

    def measure(self, batch: LossBatch, num_tokens: int) -> Measure:
        """What to read of the logits of this micro-batch's tokens. ``num_tokens``: those of the tokenizer."""


@runtime_checkable
class RelatingLoss(Loss, Protocol):
    """A loss in which every sequence of an optimizer step is held against all others, on other ranks too."""

    def relate(self, outputs: Mapping[str, Tensor], units: Tensor, texts: Tensor) -> Mapping[str, Tensor]:
        """Columns ``[n]`` or ``[n, width]`` of all n sequences of the step, which a micro-batch cannot know by itself.

        Args:
            outputs: of all sequences, without a gradient, one or ``width`` numbers of each.
            units: int64 ``[n]``, in order, a unit's sequences together.
            texts: int64 ``[n]``, equal for equal sequences of tokens.
        """


class PlainMetrics:
    """For losses whose reduced metrics are final."""

    def finalize(self, metrics: dict[str, float]) -> dict[str, float]:
        """The same metrics."""
        return dict(metrics)


def total(values: Tensor, mask: Tensor, reduce: Reduce) -> Metric:
    """A metric: the sum of ``values`` over ``mask``, in float64."""
    return Metric(keep(values.detach().double(), mask).sum(), reduce)
