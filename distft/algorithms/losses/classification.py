"""The cross entropy of classifiers, and what a confusion matrix says of them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from torch import Tensor

from distft.algorithms.losses.base import LossBatch, LossResult, Metric, total
from distft.algorithms.masking import at_least_float32, keep, masked_sum

# Counts of a label: texts of it that are called so, texts that are called so, texts of it.
_COUNTS = ("right", "called", "there")


@dataclass(frozen=True)
class Classification:
    """``-w_y log softmax(z)_y``, mean over sequences (a weighted one is not divided by the weights' sum).

    Metrics: ``accuracy``; of each label ``f1/LABEL``; ``macro_f1``, their mean over the labels that occur, as given or
    as answer; ``mcc``, Matthews' correlation coefficient of all labels (Gorodkin 2004). All but the loss are of the
    whole step, from counts over all ranks and micro-batches.
    """

    labels: tuple[str, ...]
    class_weights: Mapping[str, float] = field(default_factory=dict)

    outputs: ClassVar[tuple[str, ...]] = ("logits",)
    reads: ClassVar[Literal["tokens", "last"]] = "last"
    columns: ClassVar[tuple[str, ...]] = ("label",)
    optional_columns: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        if not self.labels or len(set(self.labels)) < len(self.labels):
            raise ValueError(f"labels must have names of their own, not {self.labels}")

    def __call__(
        self, outputs: Mapping[str, Tensor], batch: LossBatch, denominators: Mapping[str, float]
    ) -> LossResult:
        """See `Loss`. ``outputs["logits"]`` is ``[num_sequences, labels]``, column ``label`` the number of each."""
        real = batch.sequence_mask
        logits = keep(at_least_float32(outputs["logits"]), real[:, None].expand_as(outputs["logits"]))
        wanted = keep(batch.column("label"), real).long()
        weights = logits.new_tensor([self.class_weights.get(label, 1.0) for label in self.labels])
        nll = -logits.log_softmax(dim=-1).gather(1, wanted[:, None])[:, 0]
        loss = masked_sum(weights[wanted] * nll, real) / denominators["sequences"]
        return LossResult(loss, self._counted(logits.detach().argmax(dim=-1), wanted, real))

    def _counted(self, answers: Tensor, wanted: Tensor, real: Tensor) -> dict[str, Metric]:
        found = {"accuracy": total(answers == wanted, real, "sequences")}
        for number, label in enumerate(self.labels):
            counts = ((answers == number) & (wanted == number), answers == number, wanted == number)
            found |= {f"{name}/{label}": total(one, real, "sum") for name, one in zip(_COUNTS, counts, strict=True)}
        return found

    def finalize(self, metrics: dict[str, float]) -> dict[str, float]:
        """With scores in the counts' place."""
        counts = [[metrics[f"{name}/{label}"] for name in _COUNTS] for label in self.labels]
        counted = {f"{name}/{label}" for name in _COUNTS for label in self.labels}
        f1 = {f"f1/{label}": f1_of(*row) for label, row in zip(self.labels, counts, strict=True)}
        kept = {name: value for name, value in metrics.items() if name not in counted}
        occurring = [one for one, (_, called, there) in zip(f1.values(), counts, strict=True) if called + there > 0]
        macro = sum(occurring) / max(1, len(occurring))
        return kept | {"macro_f1": macro, "mcc": matthews(counts)} | f1


def f1_of(right: float, called: float, there: float) -> float:
    """``2 right / (called + there)``, the harmonic mean of precision and recall; 0 where the label does not occur."""
    return 2 * right / (called + there) if called + there > 0 else 0.0


def matthews(counts: list[list[float]]) -> float:
    """Matthews' correlation coefficient from (right, called, there) of each label; 0 where either is always the same.

    ``(c s - sum_k p_k t_k) / sqrt((s^2 - sum p_k^2) (s^2 - sum t_k^2))``, c right of s, p called and t there.
    """
    right, size = sum(row[0] for row in counts), sum(row[2] for row in counts)
    both = sum(called * there for _, called, there in counts)
    spread = [size**2 - sum(row[place] ** 2 for row in counts) for place in (1, 2)]
    return (right * size - both) / math.sqrt(spread[0] * spread[1]) if min(spread) > 0 else 0.0
