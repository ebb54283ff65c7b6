"""What is said of a scored rollout of held-out prompts."""

from __future__ import annotations

import numpy as np

from distft.batches import Batch


def score_summary(scored: Batch) -> dict[str, float]:
    """Means over the samples: ``score`` with its deviation ``score_std``, ``kl`` to the reference in nats per sequence
    where there are its log-probs, ``length`` in tokens of the policy's own, the share that ``ended``, and ``turns``
    where an environment answered."""
    scores, count = scored.dense("score").astype(np.float64), len(scored)
    own = scored.response_mask().values.astype(bool)
    found = {"score": float(scores.mean()), "score_std": float(scores.std())}
    if "ref_logprobs" in scored:
        apart = scored.ragged("old_logprobs").values.astype(np.float64) - scored.ragged("ref_logprobs").values
        found["kl"] = float(apart[own].sum() / count)
    if "turns" in scored:
        found["turns"] = float(scored.dense("turns").mean())
    return {**found, "length": float(own.sum() / count), "ended": float(scored.dense("ended").mean())}
