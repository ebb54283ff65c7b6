"""Learning a teacher's distribution over the next token, not only the token that a text has there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from distft.algorithms.divergences import Compared, Divergence
from distft.algorithms.losses.base import LossBatch, LossResult, PlainMetrics, total
from distft.algorithms.masking import masked_sum


@dataclass(frozen=True)
class Distill(PlainMetrics):
    """``sum_t D(teacher_t, student_t) / tokens`` over the target tokens of answers: every one weighs the same.

    D is the forward or reverse KL divergence or the generalized Jensen-Shannon divergence (see
    ``divergences.divergence``; GKD, Agarwal et al. 2024; answers that the policy sampled are data like given ones: no
    gradient goes through their sampling, as there), of distributions whose
    logits are divided by ``temperature``, and not multiplied by its square (as GKD and TRL 1.16; Hinton et al. 2015
    multiply).

    Metrics, token means: ``nll_loss``, that of the text itself; ``teacher_rest``, the teacher's probability of the
    tokens that it does not name, 0 where it names all.
    """

    divergence: Divergence = "forward"
    beta: float = 0.5
    temperature: float = 1.0

    outputs: ClassVar[tuple[str, ...]] = Compared.names
    reads: ClassVar[Literal["tokens", "last"]] = "tokens"
    columns: ClassVar[tuple[str, ...]] = ("teacher_logprobs",)
    optional_columns: ClassVar[tuple[str, ...]] = ("teacher_ids",)

    def __post_init__(self) -> None:
        if self.divergence not in ("forward", "reverse", "js"):
            raise ValueError(f"unknown divergence {self.divergence!r}; there are forward, reverse, js")
        if not 0 < self.beta < 1 or not self.temperature > 0:
            raise ValueError(f"beta must lie in (0, 1) and temperature above 0, not {self.beta}, {self.temperature}")

    def measure(self, batch: LossBatch, num_tokens: int) -> Compared:
        """See `MeasuringLoss`."""
        num_read, ids = len(batch.segments), batch.columns.get("teacher_ids")
        return Compared(
            batch.column("teacher_logprobs").reshape(num_read, -1),
            None if ids is None else ids.reshape(num_read, -1).long(),
            self.divergence,
            self.beta,
            self.temperature,
            num_tokens,
        )

    def __call__(
        self, outputs: Mapping[str, Tensor], batch: LossBatch, denominators: Mapping[str, float]
    ) -> LossResult:
        """See `Loss`."""
        mask = batch.token_mask
        metrics = {
            "nll_loss": total(-outputs["logprobs"], mask, "tokens"),
            "teacher_rest": total(outputs["teacher_rest"], mask, "tokens"),
        }
        return LossResult(masked_sum(outputs["divergence"], mask) / denominators["tokens"], metrics)
