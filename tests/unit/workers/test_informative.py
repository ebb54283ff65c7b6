"""Which groups dynamic sampling keeps, and how it numbers them."""

from __future__ import annotations

import numpy as np

from distft.batches import Batch, Ragged
from distft.workers.informative import informative

# Groups 7, 3, 9, 1 of two samples each, apart; those of 3 are right both times, the others once.
ROLLOUT = Batch(
    {
        "sample": np.arange(8),
        "unit": np.arange(8),
        "group": np.array([7, 3, 9, 1, 7, 3, 9, 1]),
        "score": np.array([1, 1, 0, 0, 0, 1, 1, 1], np.float32),
        "response_ids": Ragged.split(np.arange(8, dtype=np.int32), [1] * 8),
    }
)


def test_groups_of_equal_scores_are_left_out_and_the_rest_is_numbered_on() -> None:
    chosen = informative(ROLLOUT, at_most=2, first=10)
    assert chosen.ragged("response_ids").values.tolist() == [0, 4, 2, 6], "groups 7 and 9, in the order of the prompts"
    assert chosen.dense("sample").tolist() == chosen.dense("unit").tolist() == [10, 11, 12, 13]
    assert chosen.dense("group").tolist() == [10, 10, 12, 12]


def test_nothing_to_learn_from_is_an_empty_rollout() -> None:
    equal = ROLLOUT.with_columns(score=np.ones(8, np.float32))
    chosen = informative(equal, at_most=2, first=0)
    assert len(chosen) == 0
    assert len(informative(ROLLOUT, at_most=9, first=0)) == 6
