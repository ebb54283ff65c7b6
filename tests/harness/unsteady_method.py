"""SFT in a file of somebody else's that did not think of short answers: the mean over the tokens between the first and
the end of an answer, which one of two tokens has none of, so that its loss is infinite."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

from torch import Tensor

from distft.algorithms.losses.base import LossBatch, LossResult
from distft.algorithms.losses.sft import Sft as SftLoss
from distft.algorithms.masking import segment_sum
from distft.config.algorithms.sft import Sft
from distft.config.given_answers import GivenAnswers
from distft.config.method import NamedLoss, Traits


class Unsteady(GivenAnswers):
    """Mean token NLL of each answer, the mean of these."""

    traits: ClassVar[Traits] = replace(Sft.traits, losses={"policy": NamedLoss(":UnsteadyLoss", keys=())})


@dataclass(frozen=True)
class UnsteadyLoss(SftLoss):
    def __call__(self, outputs: Mapping[str, Tensor], batch: LossBatch, counts: Mapping[str, float]) -> LossResult:
        mask, count = batch.token_mask, batch.num_sequences
        of_answers = segment_sum(-outputs["logprobs"], batch.segments, count, mask)
        lengths = segment_sum(mask.float(), batch.segments, count, mask)
        means = of_answers / (lengths - 2)
        return LossResult(means[batch.sequence_mask].sum() / counts["sequences"], {})
