"""Rows of log-probabilities for the losses of pairs."""

from __future__ import annotations

import torch
from torch import Tensor

from distft.algorithms.losses.base import Loss, LossBatch, LossResult


def result(loss: Loss, rows: list[Tensor]) -> LossResult:
    """The loss of sequences that are chosen, rejected, chosen, ..."""
    segments = torch.repeat_interleave(torch.arange(len(rows)), torch.tensor([len(row) for row in rows]))
    every = torch.ones(max(len(segments), len(rows)), dtype=torch.bool)
    counts = {"tokens": float(len(segments)), "sequences": float(len(rows)), "units": len(rows) / 2}
    batch = LossBatch(every[: len(segments)], segments, every[: len(rows)], {})
    return loss({"logprobs": torch.cat(rows)}, batch, counts)


def random_rows() -> list[Tensor]:
    """Three pairs of uneven lengths."""
    generator = torch.Generator().manual_seed(3)
    return [-3 * torch.rand(length, generator=generator) for length in (5, 9, 1, 4, 30, 2)]
