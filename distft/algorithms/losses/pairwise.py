"""What the losses of pairs have in common: sequences come as chosen, rejected, chosen, ..."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from distft.algorithms.losses.base import LossBatch, LossResult, Metric, total
from distft.algorithms.masking import masked_sum, segment_sum


def pairs(batch: LossBatch, connected: Tensor) -> LossResult | None:
    """Check that sequences come in pairs (chosen, rejected, chosen, ...).

    Returns:
        None if they do; for a dummy micro-batch of an odd number of sequences, a zero loss
        connected to ``connected`` (any model output).

    Raises:
        ValueError: an odd number of sequences of which some are real.
    """
    if batch.num_sequences % 2 == 0:
        return None
    if bool(batch.sequence_mask.any()):
        raise ValueError(f"{batch.num_sequences} sequences are not pairs of chosen and rejected")
    return LossResult(masked_sum(connected, torch.zeros_like(connected, dtype=torch.bool)), {})


@dataclass(frozen=True)
class MeanLogprobs:
    """Of each pair, ``[num_pairs]``: the mean log-probability of a response token of ``chosen`` and ``rejected``, and
    whether the pair counts. A side without a token to learn from has no mean: its pair counts for nothing."""

    chosen: Tensor
    rejected: Tensor
    count: Tensor


def mean_logprobs(logprobs: Tensor, batch: LossBatch) -> MeanLogprobs:
    """``logprobs [num_tokens]`` by pair."""
    sums = segment_sum(logprobs, batch.segments, batch.num_sequences, batch.token_mask)
    lengths = segment_sum(torch.ones_like(logprobs), batch.segments, batch.num_sequences, batch.token_mask)
    counts = batch.sequence_mask & (lengths > 0)
    means = sums / lengths.clamp(min=1)
    return MeanLogprobs(means[0::2], means[1::2], counts[0::2] & counts[1::2])


def pair_metrics(rewards: tuple[Tensor, Tensor], logps: tuple[Tensor, Tensor], count: Tensor) -> dict[str, Metric]:
    """Means over the pairs that count, under TRL's names: ``rewards/{chosen,rejected}``, ``rewards/accuracies``,
    ``rewards/margins`` and ``logps/{chosen,rejected}``; each argument is chosen's and rejected's, ``[num_pairs]``."""
    (won, lost), (chosen, rejected) = rewards, logps
    values = {
        "rewards/chosen": won,
        "rewards/rejected": lost,
        "rewards/accuracies": won > lost,
        "rewards/margins": won - lost,
        "logps/chosen": chosen,
        "logps/rejected": rejected,
    }
    return {name: total(value, count, "units") for name, value in values.items()}
