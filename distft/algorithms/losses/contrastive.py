"""InfoNCE: a text is nearer to its counterpart than to all other texts of an optimizer step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from distft.algorithms.losses.base import LossBatch, LossResult, PlainMetrics, Pooling, total
from distft.algorithms.masking import at_least_float32, keep, masked_sum

_RECALLS = {"recall@1": 1, "recall@5": 5, "recall@10": 10}
_FLOOR = 1e-12  # of a vector's length, as of torch's normalize


@dataclass(frozen=True)
class Contrastive(PlainMetrics):
    """``-log exp(s_i+ / t) / sum_j exp(s_ij / t)``, mean over anchors i: van den Oord et al. 2018, eq. 4, with cosines
    s over a temperature t; j runs over the positives and hard negatives of *all* rows (Gao et al. 2021, SimCSE, eq. 5).

    What is no negative of an anchor is left out of its sum: a text that is its positive word for word, and the positive
    of another row with the same anchor.

    Of a micro-batch's own texts alone the gradient cannot be known, so ``relate`` finds it for all vectors of the step
    at once, and each micro-batch hands on its own part: ``sum_k v_k . dL/dv_k`` (Gao et al. 2021, GradCache).

    Metrics, means over anchors: ``recall@1``, ``recall@5``, ``recall@10``, the share whose positive is among so many
    nearest candidates, and ``mrr``, the mean of 1 / its place (a tie counts against it); ``cosine/positive`` and
    ``cosine/others``, of the positive and of all others. They, and the loss, depend on how many candidates there are.
    """

    temperature: float = 0.05
    pooling: Pooling = "mean"

    outputs: ClassVar[tuple[str, ...]] = ("embeddings",)
    columns: ClassVar[tuple[str, ...]] = ("gradient", "nll", "place", "cosine", "cosine_others")
    optional_columns: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise ValueError(f"temperature must be above 0, not {self.temperature}")

    @property
    def reads(self) -> Pooling:
        """See `Loss`."""
        return self.pooling

    def relate(self, outputs: Mapping[str, Tensor], units: Tensor, texts: Tensor) -> dict[str, Tensor]:
        """See `RelatingLoss`. A unit's first sequence is its anchor, the second its positive, others its negatives."""
        vectors = at_least_float32(outputs["embeddings"]).detach().requires_grad_()
        first = torch.ones_like(units, dtype=torch.bool)
        first[1:] = units[1:] != units[:-1]
        anchors, candidates = first.nonzero()[:, 0], (~first).nonzero()[:, 0]
        positives = anchors + 1
        with torch.enable_grad():
            unit_vectors = vectors / vectors.norm(dim=-1, keepdim=True).clamp(min=_FLOOR)
            cosines = unit_vectors[anchors] @ unit_vectors[candidates].T
            own = candidates == positives[:, None]
            logits = (cosines / self.temperature).masked_fill(self._alike(texts, anchors, candidates), -torch.inf)
            nll = functional.cross_entropy(logits, own.int().argmax(dim=1), reduction="none")
            (gradient,) = torch.autograd.grad(nll.sum(), vectors)
        cosines, others = cosines.detach(), ~own & logits.isfinite()
        cosine = cosines[own]
        found = {
            "nll": nll.detach(),
            "place": 1.0 + (others & (cosines >= cosine[:, None])).sum(dim=1),
            "cosine": cosine,
            "cosine_others": keep(cosines, others).sum(dim=1) / others.sum(dim=1).clamp(min=1),
        }
        columns = {name: vectors.new_zeros(len(units)) for name in found}
        for name, values in found.items():
            columns[name][anchors] = values.to(columns[name].dtype)
        return columns | {"gradient": gradient}

    @staticmethod
    def _alike(texts: Tensor, anchors: Tensor, candidates: Tensor) -> Tensor:
        """bool ``[anchors, candidates]``: what is neither an anchor's positive nor a negative of it."""
        positives = anchors + 1
        anchor_of = anchors[torch.searchsorted(anchors, candidates, right=True) - 1]
        same = texts[candidates] == texts[positives][:, None]
        others_positive = (candidates == anchor_of + 1) & (texts[anchor_of] == texts[anchors][:, None])
        return (same | others_positive) & (candidates != positives[:, None])

    def __call__(
        self, outputs: Mapping[str, Tensor], batch: LossBatch, denominators: Mapping[str, float]
    ) -> LossResult:
        """See `Loss`. ``outputs["embeddings"]`` is ``[num_sequences, width]``; the columns are those of ``relate``."""
        real, found = batch.sequence_mask, outputs["embeddings"]
        vectors = keep(at_least_float32(found), real[:, None])
        gradient = batch.column("gradient")
        gradient = gradient if gradient.dim() > 1 else gradient[:, None]  # a dummy's has no width
        pulled = (vectors * keep(gradient.expand_as(vectors), real[:, None])).sum() / denominators["units"]
        loss = masked_sum(batch.column("nll"), real) / denominators["units"]
        place = batch.column("place")
        anchors = real & (place > 0)
        metrics = {name: total(place <= k, anchors, "units") for name, k in _RECALLS.items()}
        metrics |= {
            "mrr": total(1 / place, anchors, "units"),
            "cosine/positive": total(batch.column("cosine"), anchors, "units"),
            "cosine/others": total(batch.column("cosine_others"), anchors, "units"),
        }
        return LossResult(loss + pulled - pulled.detach(), metrics)
