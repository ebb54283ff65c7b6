"""Scores compared within the group of a prompt: every token of a response is worth the same (Shao et al. 2024)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from distft.batches import Array, Batch
from distft.experience.credit.base import Assigned, Padded, importance_columns, scores_of, spread

EPSILON = 1e-4


class GroupSection(Protocol):
    """The keys that are read here."""

    @property
    def scale(self) -> bool: ...
    @property
    def kl_coef(self) -> float: ...
    @property
    def missing_eos_penalty(self) -> float | None: ...
    @property
    def importance_cap(self) -> float | None: ...


def group(rollout: Batch, section: GroupSection, state: Mapping[str, Any]) -> Assigned:  # noqa: ARG001 - keeps none
    """``advantages``: score minus its group's mean; with ``scale`` over the group's deviation (unbiased) + 1e-4, and
    without as in Dr. GRPO (Liu et al. 2025). A group of equal scores gives exactly 0, and so does a group of one.

    With a ``kl_coef`` the loss reads ``ref_logprobs`` too: the KL is its own term there. Metric
    ``rollout/equal_groups``: the share of groups that nothing is learned from.
    """
    shape = Padded.of(rollout)
    scores, groups = ended_scores(rollout, section.missing_eos_penalty), rollout.dense("group")
    mean, deviation, _, equal = group_moments(scores, groups)
    advantages = scores - mean
    if section.scale:
        advantages = advantages / (deviation + EPSILON)
    advantages = torch.where(equal, 0.0, advantages)
    columns = {"advantages": spread(advantages, shape), **importance_columns(rollout, shape, section.importance_cap)}
    if section.kl_coef:
        columns["ref_logprobs"] = rollout.ragged("ref_logprobs")
    num_groups, num_equal = (len(np.unique(chosen)) for chosen in (groups, groups[equal.numpy()]))
    return Assigned(columns, {"rollout/equal_groups": num_equal / num_groups})


def ended_scores(rollout: Batch, missing_eos_penalty: float | None) -> Tensor:
    """Scores, float64 ``[B]``; those of responses cut at the limit less the penalty."""
    scores = scores_of(rollout).double()
    if missing_eos_penalty is None:
        return scores
    return scores - missing_eos_penalty * (torch.from_numpy(rollout.dense("ended")) == 0)


def group_moments(scores: Tensor, groups: Array) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Of each sample's group: mean, unbiased deviation (0 for a group of one), number of samples, and whether all its
    scores are equal.

    ``scores [B]`` float64, ``groups [B]`` any numbers, in any order. All ``[B]``.
    """
    _, inverse, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    places, counts = torch.from_numpy(inverse.astype(np.int64)), torch.from_numpy(sizes.astype(np.int64))
    zeros = scores.new_zeros(len(counts))
    mean = zeros.index_add(0, places, scores) / counts
    squares = zeros.index_add(0, places, (scores - mean[places]).square())
    deviation = (squares / (counts - 1).clamp(min=1)).sqrt()
    lowest, highest = (zeros.scatter_reduce(0, places, scores, how, include_self=False) for how in ("amin", "amax"))
    return mean[places], deviation[places], counts[places], (lowest == highest)[places]
