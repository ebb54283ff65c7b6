"""Log-probs, values and scores of a rollout batch to advantages and returns. The whole batch is here, so every
mean and deviation is global by construction."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from distft.algorithms.advantages import gae
from distft.algorithms.kl import adapted_kl_coef, token_kl
from distft.algorithms.masking import moments, whiten
from distft.algorithms.rewards import (
    clip_scores,
    end_rewards,
    normalize_scores,
    objective_terms,
    score_moments,
    token_rewards,
)
from distft.batches import Array, Batch, Column, Difference, Ragged


@dataclass(frozen=True)
class Padded:
    """A rollout batch as rectangles: ``mask [B, T]`` bool; ``lengths [B]`` response tokens."""

    lengths: Array
    mask: Tensor

    @classmethod
    def of(cls, batch: Batch) -> Padded:
        """The shape of the responses, observation tokens masked out."""
        lengths = batch.ragged("response_ids").lengths
        width = int(lengths.max(initial=1))
        mask = torch.from_numpy(np.arange(width)[None, :] < lengths[:, None])
        padded = cls(lengths, mask)
        if "response_mask" in batch:
            padded = cls(lengths, mask & padded.rectangle(batch.ragged("response_mask")).bool())
        return padded

    def rectangle(self, column: Ragged) -> Tensor:
        """A ragged column, float32 ``[B, T]``, 0 behind its rows."""
        result = np.zeros((len(self.lengths), self.mask.shape[1]), np.float32)
        result[np.arange(result.shape[1])[None, :] < self.lengths[:, None]] = column.values
        return torch.from_numpy(result)

    def ragged(self, values: Tensor) -> Ragged:
        """Back from ``[B, T]``."""
        inside = np.arange(values.shape[1])[None, :] < self.lengths[:, None]
        return Ragged.split(values.numpy()[inside].astype(np.float32), self.lengths)


def build_ppo_columns(batch: Batch, settings: Mapping[str, Any]) -> tuple[dict[str, Any], Batch]:
    """Columns ``advantages`` and ``returns``; a report of the iteration's metrics, new score state and KL coefficient.

    With an ``importance_cap`` also ``importance_weights``: min(trainer's probability / generator's, cap) of each token.

    ``settings``: the keys of ``algorithm`` (kind ppo), with the current ``kl_coef`` and ``score_state``.
    Order of operations as NUMERICS: scores clipped and normalised, end of response, KL penalty, GAE, whitening.
    """
    shape = Padded.of(batch)
    logprobs = shape.rectangle(batch.ragged("old_logprobs"))
    ref_logprobs = shape.rectangle(batch.ragged("ref_logprobs"))
    values = shape.rectangle(batch.ragged("values"))
    raw_scores = torch.from_numpy(np.array(batch.dense("score"), dtype=np.float32))
    ended = torch.from_numpy(batch.dense("ended").astype(bool))
    scores, score_state = _prepared_scores(raw_scores, settings)
    kl = token_kl(logprobs, ref_logprobs, settings["kl_estimator"])
    bootstrap = torch.from_numpy(np.array(batch.dense("bootstrap_values"))) if "bootstrap_values" in batch else None
    ends = end_rewards(
        scores,
        ended,
        missing_eos_penalty=settings["missing_eos_penalty"],
        bootstrap_values=bootstrap,
        gamma=settings["gamma"],
    )
    rewards = token_rewards(ends, kl, shape.mask, settings["kl_coef"])
    if settings["whiten_rewards"]:
        rewards = whiten(rewards, shape.mask, moments(rewards, shape.mask), shift_mean=False)
    advantages, returns = gae(rewards, values, shape.mask, gamma=settings["gamma"], lam=settings["lam"])
    if settings["whiten"]:
        advantages = whiten(advantages, shape.mask, moments(advantages, shape.mask))
    penalty = -settings["kl_coef"] * kl
    terms = objective_terms(raw_scores, logprobs, ref_logprobs, shape.mask, penalty)
    metrics = {name: float(value.double().mean()) for name, value in terms.items()}
    entropy = shape.rectangle(batch.ragged("entropy"))[shape.mask]
    weights = _importance(batch, shape)[shape.mask].double()
    to_generator = _differences(batch, shape, "sampled_logprobs")
    metrics |= {
        "val/num_eos_tokens": float(ended.sum()),
        "kl_coef": float(settings["kl_coef"]),
        "objective/scores_std": float(raw_scores.double().std(unbiased=False)),
        "objective/token_entropy": float(entropy.double().mean()),
        **{f"rollout/trainer_logprob_difference_{name}": value for name, value in asdict(to_generator).items()},
        "rollout/importance_ess": float(weights.sum() ** 2 / (len(weights) * weights.square().sum())),
    }
    report = {
        "metrics": metrics,
        "score_state": score_state,
        "next_kl_coef": _next_kl_coef(settings, metrics["objective/kl"], len(batch)),
        "trainer_difference": to_generator,
        "reference_difference": _differences(batch, shape, "ref_logprobs"),
    }
    columns: dict[str, Column] = {
        "sample": batch.dense("sample"),
        "advantages": shape.ragged(advantages),
        "returns": shape.ragged(returns),
    }
    if settings["importance_cap"] is not None:
        columns["importance_weights"] = shape.ragged(_importance(batch, shape).clamp(max=settings["importance_cap"]))
    return report, Batch(columns)


def _prepared_scores(scores: Tensor, settings: Mapping[str, Any]) -> tuple[Tensor, dict[str, float]]:
    state = dict(settings["score_state"])
    if settings["score_clip"] is not None:
        scores = clip_scores(scores, settings["score_clip"])
    if settings["score_normalize"]:
        scores, state = normalize_scores(scores, score_moments(scores), state)
    return scores, state


def _next_kl_coef(settings: Mapping[str, Any], kl_per_sequence: float, num_samples: int) -> float:
    kl_coef = float(settings["kl_coef"])
    if settings["kl_target"] is None:
        return kl_coef
    target, horizon = float(settings["kl_target"]), float(settings["kl_horizon"])
    return adapted_kl_coef(kl_coef, kl_per_sequence, target=target, horizon=horizon, num_samples=num_samples)


def _differences(batch: Batch, shape: Padded, other: str) -> Difference:
    """How far ``other`` is from the trainer's log-probs over the policy's own tokens."""
    trainer, others = (shape.rectangle(batch.ragged(name))[shape.mask].numpy() for name in ("old_logprobs", other))
    return Difference.of(trainer, others)


def _importance(batch: Batch, shape: Padded) -> Tensor:
    """Trainer's probability / generator's of each token, ``[B, T]``."""
    return (shape.rectangle(batch.ragged("old_logprobs")) - shape.rectangle(batch.ragged("sampled_logprobs"))).exp()
