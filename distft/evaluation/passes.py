"""Forward passes over rows by a model of this process: log-probabilities of answers, and rewards."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from distft.algorithms.logprobs import token_logprobs
from distft.batches import Batch
from distft.models.families.family import Family
from distft.models.families.scalar import Scalar
from distft.models.selected import SelectedLogits, SelectedScalars
from distft.workers.collate import collate

TOKENS_AT_ONCE = 4096  # padding included; more only where one row alone is longer


@dataclass(frozen=True)
class Likelihoods:
    """Of each row, float64 ``[num_rows]``: the sum of the log-probabilities of its trained tokens in nats, their
    number, and how many of them are the likeliest at their place."""

    logprobs: npt.NDArray[np.float64]
    num_tokens: npt.NDArray[np.float64]
    num_correct: npt.NDArray[np.float64]


@torch.no_grad()
def likelihoods(family: Family, module: SelectedLogits, batch: Batch, pad_token: int) -> Likelihoods:
    """What the model, one of that family, says of a batch's answers (``prompt_ids, response_ids, response_mask``)."""
    device = next(module.parameters()).device
    found = np.zeros((3, len(batch)), np.float64)
    for rows in micro_batches(batch):
        micro = collate(family, batch, rows, (), pad_token, device)
        logits = module(**micro.tensors, select=micro.select)
        logprobs = token_logprobs(logits, micro.targets)["logprobs"].double()
        correct = (logits.argmax(dim=-1) == micro.targets).double()
        each = torch.stack([logprobs, torch.ones_like(logprobs), correct]) * micro.loss.token_mask
        sums = torch.zeros(3, len(rows), dtype=torch.float64, device=device).index_add_(1, micro.loss.segments, each)
        found[:, rows] = sums.cpu().numpy()
    return Likelihoods(*found)


@torch.no_grad()
def rewards(module: SelectedScalars, batch: Batch, pad_token: int, unread: int | None) -> npt.NDArray[np.float64]:
    """The reward of each row, read at its last token, or at the last that is not ``unread``; ``[num_rows]``."""
    device = next(module.parameters()).device
    found = np.zeros(len(batch), np.float64)
    for rows in micro_batches(batch):
        micro = collate(Scalar(), batch, rows, (), pad_token, device, unread)
        found[rows] = module(**micro.tensors, select=micro.last).double().cpu().numpy()
    return found


def micro_batches(batch: Batch, tokens: int = TOKENS_AT_ONCE) -> Iterator[list[int]]:
    """The rows of a batch, those of like length together, at most ``tokens`` at once with their padding."""
    lengths = batch.ragged("prompt_ids").lengths + batch.ragged("response_ids").lengths
    rows: list[int] = []
    for row in np.argsort(-lengths, kind="stable").tolist():
        if rows and (len(rows) + 1) * int(lengths[rows[0]]) > tokens:
            yield rows
            rows = []
        rows.append(row)
    if rows:
        yield rows
