"""The loss of process reward models, which judge each step of an answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from distft.algorithms.losses.base import LossBatch, LossResult, total
from distft.algorithms.masking import at_least_float32, keep, masked_sum


@dataclass(frozen=True)
class ProcessReward:
    """``-log sig(r)`` of a right step, ``-log sig(-r)`` of a wrong one, mean over all steps: the cross entropy of two
    classes whose logits differ by r (Lightman et al. 2023, section 2.6; Wang et al. 2024, Math-Shepherd, eq. 3).

    A step is a token whose mask is 1, read where its separator ends; column ``step`` is 1 of a right one.

    Metrics: ``accuracy`` over steps (r > 0 says right); ``accuracy/right`` and ``accuracy/wrong`` over those of either
    sort; ``first_wrong``, the share of answers whose first wrong step, or that there is none, is found (as ProcessBench
    judges, Zheng et al. 2024). All are of the whole step of training, from counts over ranks and micro-batches.
    """

    outputs: ClassVar[tuple[str, ...]] = ("values",)
    reads: ClassVar[Literal["tokens", "last"]] = "tokens"
    columns: ClassVar[tuple[str, ...]] = ("step",)
    optional_columns: ClassVar[tuple[str, ...]] = ()

    def __call__(
        self, outputs: Mapping[str, Tensor], batch: LossBatch, denominators: Mapping[str, float]
    ) -> LossResult:
        """See `Loss`. ``outputs["values"]`` is ``[num_tokens]``, r of each step."""
        mask = batch.token_mask
        rewards = keep(at_least_float32(outputs["values"]), mask)
        right = keep(batch.column("step"), mask) > 0
        nll = F.binary_cross_entropy_with_logits(rewards, right.to(rewards.dtype), reduction="none")
        said = rewards.detach() > 0
        found = _first_wrong(said, batch) == _first_wrong(right, batch)
        metrics = {
            "accuracy": total(said == right, mask, "tokens"),
            "first_wrong": total(found, batch.sequence_mask, "sequences"),
        }
        for name, sort in (("right", right), ("wrong", ~right)):
            metrics[f"accuracy/{name}"] = total(said == right, mask & sort, "sum")
            metrics[f"num_{name}"] = total(sort, mask, "sum")
        return LossResult(masked_sum(nll, mask) / denominators["tokens"], metrics)

    def finalize(self, metrics: dict[str, float]) -> dict[str, float]:
        """Divides ``accuracy/*`` by the number of such steps; one of none is left out."""
        found = {name: value for name, value in metrics.items() if not name.startswith(("accuracy/", "num_"))}
        for name in ("right", "wrong"):
            if metrics[f"num_{name}"]:
                found[f"accuracy/{name}"] = metrics[f"accuracy/{name}"] / metrics[f"num_{name}"]
        return found


def _first_wrong(right: Tensor, batch: LossBatch) -> Tensor:
    """Of each sequence the place of its first step that is not right, int64 ``[num_sequences]``; the number of places
    where there is none."""
    places = torch.arange(len(right), device=right.device)
    wrong = torch.where(~right & batch.token_mask, places, len(right))
    found = torch.full((batch.num_sequences,), len(right), dtype=torch.int64, device=right.device)
    return found.scatter_reduce(0, batch.segments, wrong, "amin")
