"""Scores compared within the group of a prompt: every token of a response is worth the same (Shao et al. 2024)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from distft.batches import Array, Batch
from distft.experience.credit.base import Assigned, Padded, importance_columns, scores_of, spread

EPSILON = 1e-4


class ScoreSection(Protocol):
    """The keys that a response's score is shaped by."""

    @property
    def missing_eos_penalty(self) -> float | None: ...
    @property
    def overlong_after(self) -> int | None: ...
    @property
    def overlong_buffer(self) -> int | None: ...


class GroupSection(ScoreSection, Protocol):
    """The keys that are read here."""

    @property
    def scale_rewards(self) -> bool: ...
    @property
    def importance_cap(self) -> float | None: ...


def group(rollout: Batch, section: GroupSection, state: Mapping[str, Any]) -> Assigned:  # noqa: ARG001 - keeps none
    """``advantages``: score minus its group's mean; with ``scale_rewards`` over the group's deviation (unbiased)
    + 1e-4, and without as in Dr. GRPO (Liu et al. 2025). A group of equal scores gives exactly 0, and so does a group
    of one.

    Where there is a reference its log-probs go along: the KL is a term of the loss.
    """
    shape, scores = Padded.of(rollout), shaped_scores(rollout, section)
    found = group_moments(scores, rollout.dense("group"))
    advantages = scores - found.mean
    if section.scale_rewards:
        advantages = advantages / (found.deviation + EPSILON)
    advantages = torch.where(found.equal, 0.0, advantages)
    columns = {"advantages": spread(advantages, shape), **importance_columns(rollout, shape, section.importance_cap)}
    if "ref_logprobs" in rollout:
        columns["ref_logprobs"] = rollout.ragged("ref_logprobs")
    return Assigned(columns, group_metrics(rollout, scores))


def shaped_scores(rollout: Batch, section: ScoreSection) -> Tensor:
    """Scores, float64 ``[B]``. Those of responses cut at the limit are less by ``missing_eos_penalty``; those of
    responses of more than ``overlong_after`` tokens, observations not counted, by the part of ``overlong_buffer`` that
    they use, 1 at most (Yu et al. 2025, eq. 13)."""
    scores = scores_of(rollout).double()
    if section.missing_eos_penalty is not None:
        scores = scores - section.missing_eos_penalty * (torch.from_numpy(rollout.dense("ended")) == 0)
    if section.overlong_after is not None and section.overlong_buffer is not None:
        lengths = Padded.of(rollout).mask.sum(1).double()
        scores = scores - ((lengths - section.overlong_after) / section.overlong_buffer).clamp(0, 1)
    return scores


@dataclass(frozen=True)
class GroupMoments:
    """Of each sample's group, all ``[B]``: mean, unbiased deviation (0 for a group of one), number of samples, and
    whether all its scores are equal."""

    mean: Tensor
    deviation: Tensor
    counts: Tensor
    equal: Tensor


def group_moments(scores: Tensor, groups: Array) -> GroupMoments:
    """``scores [B]`` float64, ``groups [B]`` any numbers, in any order."""
    _, inverse, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    places, counts = torch.from_numpy(inverse.astype(np.int64)), torch.from_numpy(sizes.astype(np.int64))
    zeros = scores.new_zeros(len(counts))
    mean = zeros.index_add(0, places, scores) / counts
    squares = zeros.index_add(0, places, (scores - mean[places]).square())
    deviation = (squares / (counts - 1).clamp(min=1)).sqrt()
    lowest, highest = (zeros.scatter_reduce(0, places, scores, how, include_self=False) for how in ("amin", "amax"))
    return GroupMoments(mean[places], deviation[places], counts[places], (lowest == highest)[places])


def group_metrics(rollout: Batch, scores: Tensor) -> dict[str, float]:
    """What methods without a value model report of a rollout, under TRL's names.

    ``reward`` mean of the shaped ``scores``; ``reward_std`` their (unbiased) deviation over the whole rollout batch;
    ``frac_reward_zero_std`` the share whose group's scores are equal; ``completions/{mean,min,max}_length`` in tokens,
    observations not counted; ``completions/clipped_ratio`` the share that was cut at the limit.
    """
    found, lengths = group_moments(scores, rollout.dense("group")), Padded.of(rollout).mask.sum(1).double()
    return {
        "reward": float(scores.mean()),
        "reward_std": float(scores.std()) if len(scores) > 1 else 0.0,
        "frac_reward_zero_std": float(found.equal.double().mean()),
        "completions/mean_length": float(lengths.mean()),
        "completions/min_length": float(lengths.min()),
        "completions/max_length": float(lengths.max()),
        "completions/clipped_ratio": float((rollout.dense("ended") == 0).mean()),
    }
