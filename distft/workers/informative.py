"""Dynamic sampling's choice: of a scored rollout the groups that something can be learned from (Yu et al. 2025)."""

from __future__ import annotations

import numpy as np

from distft.batches import Batch


def informative(rollout: Batch, at_most: int, first: int) -> Batch:
    """The samples of the first ``at_most`` groups whose scores are not all equal, group by group.

    ``rollout`` has ``score`` and ``group`` beside what it was made of. Samples, their units and groups are numbered on
    from ``first``, so that the chosen ones of several rollouts can stand beside each other.
    """
    scores, groups = rollout.dense("score"), rollout.dense("group")
    _, starts, places = np.unique(groups, return_index=True, return_inverse=True)
    lowest, highest = np.full(len(starts), np.inf), np.full(len(starts), -np.inf)
    np.minimum.at(lowest, places, scores)
    np.maximum.at(highest, places, scores)
    differing = [group for group in np.argsort(starts) if lowest[group] < highest[group]][:at_most]
    rows = [np.flatnonzero(places == group) for group in differing]
    chosen = rollout.take(np.concatenate(rows) if rows else [])
    numbers = first + np.arange(len(chosen), dtype=np.int64)
    begins = first + np.cumsum([0, *(len(of_group) for of_group in rows)])[:-1].astype(np.int64)
    return chosen.with_columns(
        sample=numbers, unit=numbers, group=np.repeat(begins, [len(of_group) for of_group in rows])
    )
