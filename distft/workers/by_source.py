"""The loss of each source's rows, of the same pass that trains: as if a step had only those."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from distft.algorithms.losses.base import Loss, LossBatch, Metric
from distft.batches import Batch
from distft.workers.reports import BY_SOURCE


@dataclass(frozen=True)
class SourceLosses:
    """``denominators``: of each source (by number) the counts of its rows over all ranks and micro-batches; None of one
    that the step has no rows of."""

    denominators: Sequence[Mapping[str, float] | None]

    def of(
        self, loss: Loss, outputs: Mapping[str, Tensor], batch: Batch, rows: Sequence[int], micro: LossBatch
    ) -> dict[str, Metric]:
        """Each source's part in the mean of its loss, from a micro-batch whose ``rows`` are of ``batch``: ``loss``
        again on what the model answered, with the rows of other sources as dummies. The same names on every rank."""
        found = {}
        sources = batch.dense("source")[list(rows)] if len(rows) and self.denominators else np.zeros(0, np.int64)
        with torch.no_grad():
            for number, denominators in enumerate(self.denominators):
                if denominators is None:
                    continue
                value = torch.zeros((), dtype=torch.float64, device=micro.segments.device)
                if (sources == number).any():
                    own = torch.as_tensor(sources == number, device=micro.sequence_mask.device)
                    value = loss(outputs, replace(micro, sequence_mask=micro.sequence_mask & own), denominators).loss
                found[f"{BY_SOURCE}/{number}"] = Metric(value.double(), "sum")
        return found
