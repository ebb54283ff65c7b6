"""REINFORCE++ (Hu et al. 2025): discounted returns, and no baseline but the mean of the whole rollout batch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Protocol

import torch

from distft.algorithms.advantages import gae
from distft.algorithms.kl import mean_token_kl, token_kl
from distft.algorithms.masking import moments, whiten
from distft.algorithms.rewards import penalty_terms, token_rewards
from distft.batches import Batch
from distft.experience.credit.base import Assigned, Padded, importance_columns, scores_of
from distft.experience.credit.group import ScoreSection, group_metrics, group_moments, shaped_scores


class WhitenedSection(ScoreSection, Protocol):
    """The keys that are read here."""

    @property
    def baseline(self) -> Literal["none", "group"]: ...
    @property
    def kl_coef(self) -> float: ...
    @property
    def gamma(self) -> float: ...
    @property
    def importance_cap(self) -> float | None: ...


def whitened_returns(rollout: Batch, section: WhitenedSection, state: Mapping[str, Any]) -> Assigned:  # noqa: ARG001
    """``advantages``: ``sum_(i >= t) gamma^(i-t) r_i``, to mean 0 and deviation 1 over all tokens of the
    batch; observations are skipped, not decayed through.

    ``r`` is the score at the last token, less ``kl_coef (log pi - log pi_ref)`` at every token. With ``baseline:
    group`` it is the score less its group's mean, and no KL: that is a term of the loss, which reads ``ref_logprobs``.
    """
    shape, in_reward = Padded.of(rollout), section.baseline == "none"
    scores, groups = shaped_scores(rollout, section), rollout.dense("group")
    metrics = group_metrics(rollout, scores)
    logprobs, reference = (shape.rectangle(rollout.ragged(f"{name}_logprobs")) for name in ("old", "ref"))
    kl = token_kl(logprobs, reference)
    if in_reward:
        terms = penalty_terms(scores_of(rollout), shape.mask, -section.kl_coef * kl)
        metrics |= {name: float(value.double().mean()) for name, value in terms.items()}
        metrics["kl"] = mean_token_kl(logprobs, reference, shape.mask)
    else:
        scores = scores - group_moments(scores, groups).mean
    rewards = token_rewards(scores.float(), kl, shape.mask, section.kl_coef if in_reward else 0.0)
    _, returns = gae(rewards, torch.zeros_like(rewards), shape.mask, gamma=section.gamma, lam=1.0)
    advantages = whiten(returns, shape.mask, moments(returns, shape.mask))
    columns = {"advantages": shape.ragged(advantages), **importance_columns(rollout, shape, section.importance_cap)}
    if not in_reward:
        columns["ref_logprobs"] = rollout.ragged("ref_logprobs")
    return Assigned(columns, metrics)
