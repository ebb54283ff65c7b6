"""Generalised advantage estimation over token rewards with a KL penalty (Schulman et al. 2016; Ouyang et al. 2022).

Needs a value model and a reference. Order of operations as NUMERICS: scores clipped and normalised, end of response,
KL penalty, GAE, whitening.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from distft.algorithms.advantages import gae as advantages_and_returns
from distft.algorithms.kl import adapted_kl_coef, sequence_kl, token_kl
from distft.algorithms.masking import moments, whiten
from distft.algorithms.rewards import (
    clip_scores,
    end_rewards,
    normalize_scores,
    penalty_terms,
    score_moments,
    token_rewards,
)
from distft.batches import Batch
from distft.config.algorithms.ppo import Ppo
from distft.experience.credit.base import Assigned, Padded, importance_columns, scores_of


def gae(rollout: Batch, section: Ppo, state: Mapping[str, Any]) -> Assigned:
    """Columns ``advantages`` and ``returns``, with an ``importance_cap`` also ``importance_weights``.

    State: ``kl_coef`` of the next iteration, the running moments of all ``scores``, and how many ``iterations`` there
    were: while ``value_warmup_steps`` hold the policy nothing of it moves, what steers its KL neither.
    """
    shape = Padded.of(rollout)
    kl_coef = float(state.get("kl_coef", section.kl_coef))
    iterations = int(state.get("iterations", 0)) + 1
    raw_scores = scores_of(rollout)
    scores, moments_so_far = _prepared(raw_scores, section, state.get("scores", {}))
    kl = token_kl(*_logprobs(rollout, shape), section.kl_estimator)
    ends = _ends(rollout, scores, section)
    rewards = token_rewards(ends, kl, shape.mask, kl_coef)
    if section.whiten_rewards:
        rewards = whiten(rewards, shape.mask, moments(rewards, shape.mask), shift_mean=False)
    values = shape.rectangle(rollout.ragged("values"))
    advantages, returns = advantages_and_returns(rewards, values, shape.mask, gamma=section.gamma, lam=section.lam)
    if section.whiten:
        advantages = whiten(advantages, shape.mask, moments(advantages, shape.mask))
    terms = penalty_terms(raw_scores, shape.mask, -kl_coef * kl)
    metrics = {name: float(value.double().mean()) for name, value in terms.items()} | {"kl_coef": kl_coef}
    if section.kl_target is not None and iterations > section.value_warmup_steps:
        kl_coef = _adapted(kl_coef, rollout, shape, section)
    return Assigned(
        {
            "advantages": shape.ragged(advantages),
            "returns": shape.ragged(returns),
            **importance_columns(rollout, shape, section.importance_cap),
        },
        metrics,
        {"iterations": iterations, "kl_coef": kl_coef, "scores": moments_so_far},
    )


def _logprobs(rollout: Batch, shape: Padded) -> tuple[Tensor, Tensor]:
    one, other = (shape.rectangle(rollout.ragged(f"{name}_logprobs")) for name in ("old", "ref"))
    return one, other


def _prepared(scores: Tensor, section: Ppo, seen: Mapping[str, float]) -> tuple[Tensor, dict[str, float]]:
    if section.score_clip is not None:
        scores = clip_scores(scores, section.score_clip)
    if section.score_normalize:
        return normalize_scores(scores, score_moments(scores), seen)
    return scores, dict(seen)


def _ends(rollout: Batch, scores: Tensor, section: Ppo) -> Tensor:
    bootstrap = None
    if section.truncated == "bootstrap":
        bootstrap = torch.from_numpy(np.array(rollout.dense("bootstrap_values")))
    return end_rewards(
        scores,
        torch.from_numpy(rollout.dense("ended").astype(bool)),
        missing_eos_penalty=section.missing_eos_penalty,
        bootstrap_values=bootstrap,
        gamma=section.gamma,
    )


def _adapted(kl_coef: float, rollout: Batch, shape: Padded, section: Ppo) -> float:
    """The coefficient after the mean KL per sequence seen here."""
    assert section.kl_target is not None
    logprobs, ref_logprobs = _logprobs(rollout, shape)
    observed = float(sequence_kl(logprobs, ref_logprobs, shape.mask).double().mean())
    return adapted_kl_coef(
        kl_coef, observed, target=section.kl_target, horizon=float(section.kl_horizon), num_samples=len(rollout)
    )
