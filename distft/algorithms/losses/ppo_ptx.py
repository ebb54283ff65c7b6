"""PPO's policy loss with the likelihood of other text beside it, so that what was known is not forgotten."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

from torch import Tensor

from distft.algorithms.losses.base import LossBatch, LossResult, total
from distft.algorithms.losses.ppo import PpoPolicy
from distft.algorithms.masking import masked_sum


@dataclass(frozen=True)
class PpoPtx(PpoPolicy):
    """`PpoPolicy` of sampled responses ``- ptx_coef * mean log pi(y_t | y_<t)`` of other texts.

    Ouyang et al. 2022 (InstructGPT), eq. 2, PPO-ptx; gamma there is ``ptx_coef``, 27.8 in the paper. The mean is over
    the target tokens of the step's texts, as everywhere here. A sequence is such a text where the column ``ptx``
    (``[num_sequences]``) is 1; what PPO is averaged over does not know of them, and the other way round (count
    ``ptx_tokens``).

    Metrics: those of `PpoPolicy`, and ``ptx/loss``, the token mean of the texts' negative log-likelihood.
    """

    ptx_coef: float = 1.0

    columns: ClassVar[tuple[str, ...]] = (*PpoPolicy.columns, "ptx")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.ptx_coef > 0:
            raise ValueError(f"ptx_coef must be above 0, not {self.ptx_coef}")

    def __call__(
        self, outputs: Mapping[str, Tensor], batch: LossBatch, denominators: Mapping[str, float]
    ) -> LossResult:
        """See `Loss`."""
        is_text = batch.column("ptx") == 1
        of_samples = replace(batch, sequence_mask=batch.sequence_mask & ~is_text)
        of_texts = replace(batch, sequence_mask=batch.sequence_mask & is_text).token_mask
        sampled = super().__call__(outputs, of_samples, denominators)
        nll = masked_sum(-outputs["logprobs"], of_texts) / denominators["ptx_tokens"]
        metrics = {**sampled.metrics, "ptx/loss": total(-outputs["logprobs"], of_texts, "ptx_tokens")}
        return LossResult(sampled.loss + self.ptx_coef * nll, metrics)
