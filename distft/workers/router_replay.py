"""A policy that sends every token to the experts that its generator sent it to: see ``models.routers``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from distft.algorithms.losses.base import Metric
from distft.batches import Batch
from distft.models.routers import Routers
from distft.workers.collate import MicroBatch

COLUMN = "routed_experts"
METRIC = "routing/changed"


class RouterReplay:
    """Of the model that a rank trains."""

    def __init__(self, model: Any, role: str) -> None:
        """Raises UserError as ``Routers``."""
        self.routers = Routers(model, f"models.{role}")

    @contextmanager
    def on(self, batch: Batch, micro: MicroBatch) -> Iterator[None]:
        """While open, the model computes that micro-batch of ``batch``. A token that the generator did not read is
        routed as ever: the last of each sample, padding, texts that nobody sampled, dummies; so are all where the batch
        was not sampled."""
        if COLUMN not in batch or not len(micro.rows):
            yield
            return
        column, prompts = batch.ragged(COLUMN), batch.ragged("prompt_ids").lengths
        num_tokens = micro.tensors["input_ids"].numel()
        experts = np.zeros((num_tokens, self.routers.width), np.int64)
        known = np.zeros(num_tokens, np.bool_)
        for first, row in zip(micro.first, micro.rows, strict=True):
            own, start = column[row], int(first) + 1 - int(prompts[row])
            experts[start : start + len(own)] = own
            known[start : start + len(own)] = True
        device = micro.select.device
        with self.routers.replaying(torch.from_numpy(experts).to(device), torch.from_numpy(known).to(device)):
            yield

    def metrics(self, batch: Batch, micro: MicroBatch) -> dict[str, Metric]:
        """After the forward pass of a micro-batch, while it is replayed: the share of (token, layer) whose experts the
        model would not have chosen now, over the places where a trained token is predicted."""
        if COLUMN not in batch or not len(micro.rows):
            return {METRIC: Metric(torch.zeros((), dtype=torch.float64), "tokens")}
        changed = self.routers.changed().index_select(0, micro.select)
        return {METRIC: Metric((changed * micro.loss.token_mask).sum(), "tokens")}
