"""REINFORCE leave-one-out (Kool et al. 2019; Ahmadian et al. 2024): the other samples of a prompt are the baseline."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import torch

from distft.algorithms.kl import mean_token_kl, sequence_kl
from distft.algorithms.rewards import penalty_terms
from distft.batches import Batch
from distft.experience.credit.base import Assigned, Padded, scores_of, spread
from distft.experience.credit.group import ScoreSection, group_metrics, group_moments, shaped_scores


class LeaveOneOutSection(ScoreSection, Protocol):
    """The keys that are read here."""

    @property
    def kl_coef(self) -> float: ...


def leave_one_out(rollout: Batch, section: LeaveOneOutSection, state: Mapping[str, Any]) -> Assigned:  # noqa: ARG001
    """``advantages``: ``R_i - mean of R_j, j != i`` within a prompt's group, the same at every token of a response.

    ``R = score - kl_coef sum_t (log pi - log pi_ref)``: the KL is part of the sequence's reward. Needs at least two
    samples of every prompt; ValueError for fewer. Reports the ``kl`` of a token, and the reward's two terms.
    """
    shape = Padded.of(rollout)
    rewards = shaped_scores(rollout, section)
    metrics = {**group_metrics(rollout, rewards), "kl_coef": section.kl_coef}
    logprobs, reference = (shape.rectangle(rollout.ragged(f"{name}_logprobs")) for name in ("old", "ref"))
    metrics["kl"] = mean_token_kl(logprobs, reference, shape.mask)
    if section.kl_coef:
        penalty = -section.kl_coef * (logprobs - reference)
        rewards = rewards - section.kl_coef * sequence_kl(logprobs, reference, shape.mask).double()
        terms = penalty_terms(scores_of(rollout), shape.mask, penalty)
        metrics |= {name: float(value.double().mean()) for name, value in terms.items()}
    found = group_moments(rewards, rollout.dense("group"))
    if (found.counts < 2).any():
        raise ValueError("leave-one-out needs at least two samples of every prompt")
    others = found.counts.double() - 1
    advantages = torch.where(found.equal, 0.0, (rewards - found.mean) * found.counts / others)
    return Assigned({"advantages": spread(advantages, shape)}, metrics)
