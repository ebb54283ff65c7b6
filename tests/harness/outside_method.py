"""A method that distft does not have, as somebody else would write it: unlikelihood training (Welleck et al. 2020)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from pydantic import Field
from torch import Tensor

from distft.algorithms.losses.base import LossBatch, LossResult, PlainMetrics, total
from distft.algorithms.losses.pairwise import pairs
from distft.algorithms.masking import masked_sum
from distft.config.method import PAIRS, UPDATE_OF_POLICY, Method, NamedLoss, Traits


class Unlikelihood(Method):
    """NLL of the chosen answer's tokens + ``weight`` x -log(1 - p) of the rejected one's, token mean."""

    traits: ClassVar[Traits] = Traits(
        roles=("policy",),
        trained=("policy",),
        unit=PAIRS,
        formats=("preference", "hh_rlhf"),
        losses={"policy": NamedLoss(":UnlikelihoodLoss")},
        phases=(UPDATE_OF_POLICY,),
    )
    weight: float = Field(default=0.5, ge=0, description="weight of the rejected answer's term")


@dataclass(frozen=True)
class UnlikelihoodLoss(PlainMetrics):
    weight: float = 0.5
    outputs: ClassVar[tuple[str, ...]] = ("logprobs",)
    reads: ClassVar[Literal["tokens", "last"]] = "tokens"
    columns: ClassVar[tuple[str, ...]] = ()
    optional_columns: ClassVar[tuple[str, ...]] = ()

    def __call__(self, outputs: Mapping[str, Tensor], batch: LossBatch, counts: Mapping[str, float]) -> LossResult:
        logprobs, chosen = outputs["logprobs"].float(), batch.segments % 2 == 0
        if dummy := pairs(batch, logprobs):
            return dummy
        unlikely = -(-logprobs.clamp(max=-1e-6).exp()).log1p()
        per_token = (-logprobs).where(chosen, self.weight * unlikely)
        metrics = {"logps/chosen": total(logprobs, batch.token_mask & chosen, "units")}
        return LossResult(masked_sum(per_token, batch.token_mask) / counts["tokens"], metrics)
