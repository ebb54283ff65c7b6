"""Of the answers to a prompt the best by score, to be learned as they are (Dong et al. 2023, RAFT, algorithm 1)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from distft.batches import Array, Batch
from distft.experience.credit.base import Assigned, Chosen
from distft.experience.credit.group import ScoreSection, group_metrics, shaped_scores


class BestOfSection(ScoreSection, Protocol):
    """The keys that are read here."""

    @property
    def keep(self) -> int: ...
    @property
    def min_score(self) -> float | None: ...


def best_of(rollout: Batch, section: BestOfSection, state: Mapping[str, Any]) -> Assigned:  # noqa: ARG001 - keeps none
    """Chooses of each prompt the ``keep`` answers of the highest shaped scores, of equal ones those that were sampled
    first, and of these the ones whose score is at least ``min_score``. Each is a unit of its own.

    Metrics: those of `group_metrics`; ``kept/learned``, how many are learned, and ``kept/score``, the mean of their
    scores, where there are any.
    """
    scores = shaped_scores(rollout, section)
    rows = best_rows(scores.numpy(), rollout.dense("group"), section.keep)
    if section.min_score is not None:
        rows = rows[scores.numpy()[rows] >= section.min_score]
    metrics = {"kept/learned": float(len(rows))}
    if len(rows):
        metrics["kept/score"] = float(scores[rows].mean())
    chosen = Chosen(rows, np.arange(len(rows), dtype=np.int64))
    return Assigned({}, {**group_metrics(rollout, scores), **metrics}, chosen=chosen)


def best_rows(scores: Array, groups: Array, keep: int) -> Array:
    """Rows, int64 ``[n]``, of the ``keep`` highest ``scores [B]`` of every group, the best first, in the order of
    ``groups [B]``."""
    of_groups = [np.flatnonzero(groups == group) for group in np.unique(groups)]
    best = [rows[np.argsort(-scores[rows], kind="stable")[:keep]] for rows in of_groups]
    return np.concatenate(best).astype(np.int64)
