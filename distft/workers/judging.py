"""A scored rollout to what its tokens are worth, and what is said of it whatever the method."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import torch

from distft.algorithms.rewards import objective_terms
from distft.batches import Batch, Difference
from distft.common.addresses import found_at
from distft.experience.credit.base import Chosen, Credit, Padded, importance, scores_of
from distft.workers.repetition import repetition
from distft.workers.reports import Credited


def judged(rollout: Batch, section: Any, state: Mapping[str, Any]) -> tuple[Credited, Batch]:
    """The columns of the method's way of assigning credit; where it chose samples, all that these are trained with,
    their numbers new. ``section``: the recipe's ``algorithm``.

    Reports the iteration's ``metrics``, the method's ``state`` for the next one, and how far the generator's
    (``trainer_difference``) and the reference's log-probs (``reference_difference``; None without one) are from the
    trainer's.
    """
    credit: Credit = found_at(section.address(section.traits.credit))
    assigned = credit(rollout, section, state)
    shape = Padded.of(rollout)
    to_generator = _difference(rollout, shape, "sampled_logprobs")
    report = Credited(
        metrics=_metrics(rollout, shape, to_generator) | assigned.metrics,
        state=assigned.state,
        trainer_difference=to_generator,
        reference_difference=_difference(rollout, shape, "ref_logprobs") if "ref_logprobs" in rollout else None,
    )
    if assigned.chosen is None:
        return report, Batch({"sample": rollout.dense("sample"), **assigned.columns})
    return report, _of_chosen(rollout, assigned.chosen).with_columns(**assigned.columns)


def _of_chosen(rollout: Batch, chosen: Chosen) -> Batch:
    """Their texts, numbered anew by sample and unit."""
    optional = (name for name in ("response_mask", "routed_experts") if name in rollout)
    names = ("prompt_ids", "response_ids", *optional)
    texts = Batch({name: rollout.columns[name] for name in names}).take(chosen.rows)
    return texts.with_columns(sample=np.arange(len(chosen.rows), dtype=np.int64), unit=chosen.units)


def _metrics(rollout: Batch, shape: Padded, to_generator: Difference) -> dict[str, float]:
    """``objective/*``: means per sequence, in nats and points; of tokens where the name says so."""
    scores, logprobs = scores_of(rollout), shape.rectangle(rollout.ragged("old_logprobs"))
    reference = shape.rectangle(rollout.ragged("ref_logprobs")) if "ref_logprobs" in rollout else None
    entropy = shape.rectangle(rollout.ragged("entropy"))[shape.mask]
    weights = importance(rollout, shape)[shape.mask].double()
    terms = objective_terms(scores, logprobs, reference, shape.mask)
    return {
        **{name: float(value.double().mean()) for name, value in terms.items()},
        "val/num_eos_tokens": float(torch.from_numpy(rollout.dense("ended").astype(bool)).sum()),
        "objective/scores_std": float(scores.double().std(unbiased=False)),
        "objective/token_entropy": float(entropy.double().mean()),
        "objective/repetition": repetition(rollout),
        **{f"rollout/trainer_logprob_difference_{name}": value for name, value in asdict(to_generator).items()},
        "rollout/importance_ess": float(weights.sum() ** 2 / (len(weights) * weights.square().sum())),
    }


def _difference(rollout: Batch, shape: Padded, other: str) -> Difference:
    """How far ``other`` is from the trainer's log-probs over the policy's own tokens."""
    trainer, others = (shape.rectangle(rollout.ragged(name))[shape.mask].numpy() for name in ("old_logprobs", other))
    return Difference.of(trainer, others)
