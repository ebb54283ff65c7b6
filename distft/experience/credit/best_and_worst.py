"""Of the answers to a prompt the best and the worst by score, as a pair (Guo et al. 2024, Online DPO)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from distft.batches import Array, Batch
from distft.experience.credit.base import Assigned, Chosen
from distft.experience.credit.group import ScoreSection, group_metrics, shaped_scores


def best_and_worst(rollout: Batch, section: ScoreSection, state: Mapping[str, Any]) -> Assigned:  # noqa: ARG001
    """Column ``ref_logprobs`` of pairs: of each prompt the answer of the highest shaped score, and behind it that of
    the lowest; of equal ones the one that was sampled first. A prompt whose scores are all equal has no pair.

    Two answers to a prompt make the pair of TRL 1.16's OnlineDPOTrainer, which also trains on ties, the first answer
    as the better one.

    Metrics: those of `group_metrics`; ``pairs/learned`` and ``pairs/ties``, how many prompts have one and have none;
    ``objective/scores_margin`` (as TRL), the mean over pairs of what lies between the two scores, where there are any.
    """
    scores = shaped_scores(rollout, section)
    rows = pairs_of(scores.numpy(), rollout.dense("group"))
    metrics = {
        "pairs/learned": float(len(rows)),
        "pairs/ties": float(len(np.unique(rollout.dense("group"))) - len(rows)),
    }
    if len(rows):
        metrics["objective/scores_margin"] = float((scores[rows[:, 0]] - scores[rows[:, 1]]).mean())
    chosen = Chosen(rows.reshape(-1), np.repeat(np.arange(len(rows), dtype=np.int64), 2))
    reference = rollout.ragged("ref_logprobs").take(chosen.rows)
    return Assigned({"ref_logprobs": reference}, {**group_metrics(rollout, scores), **metrics}, chosen=chosen)


def pairs_of(scores: Array, groups: Array) -> Array:
    """Rows of the best and the worst, int64 ``[pairs, 2]``, of every group whose ``scores [B]`` are not all equal, in
    the order of ``groups [B]``."""
    found = []
    for group in np.unique(groups):
        rows = np.flatnonzero(groups == group)
        best, worst = rows[np.argmax(scores[rows])], rows[np.argmin(scores[rows])]
        if scores[best] > scores[worst]:
            found.append((best, worst))
    return np.array(found, np.int64).reshape(-1, 2)
