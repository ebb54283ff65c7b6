"""Forward passes over rows by a model of this process: log-probabilities of answers, and rewards."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from distft.algorithms.logprobs import token_logprobs
from distft.batches import Batch
from distft.models.families.family import Family
from distft.models.selected import SelectedLogits
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
def rewards(
    family: Family, module: nn.Module, batch: Batch, pad_token: int, unread: int | None
) -> npt.NDArray[np.float64]:
    """The reward of each row by a model of the ``family``, a decoder's read at the row's last token, or at the last
    that is not ``unread``; ``[num_rows]``."""
    device = next(module.parameters()).device
    found = np.zeros(len(batch), np.float64)
    for rows in micro_batches(batch):
        micro = collate(family, batch, rows, (), pad_token, device, unread)
        found[rows] = family.outputs(module, micro, ("values",), "last", 1.0)["values"].double().cpu().numpy()
    return found


@torch.no_grad()
def chosen_labels(
    family: Family, module: nn.Module, batch: Batch, pad_token: int, unread: int | None
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Of each row the label that the classifier takes for the likeliest, by number, and the log-probability of the one
    in column ``label``; ``[num_rows]`` each."""
    device = next(module.parameters()).device
    answers, logprobs = np.zeros(len(batch), np.int64), np.zeros(len(batch), np.float64)
    for rows in micro_batches(batch):
        micro = collate(family, batch, rows, ("label",), pad_token, device, unread)
        logits = family.outputs(module, micro, ("logits",), "last", 1.0)["logits"]
        wanted = micro.loss.column("label").long()[:, None]
        answers[rows] = logits.argmax(dim=-1).cpu().numpy()
        logprobs[rows] = logits.double().log_softmax(dim=-1).gather(1, wanted)[:, 0].cpu().numpy()
    return answers, logprobs


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
