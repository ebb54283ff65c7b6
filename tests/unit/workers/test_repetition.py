"""Repetition of responses, by hand and against counting one by one."""

from __future__ import annotations

import numpy as np
import pytest

from distft.batches import Batch, Ragged
from distft.workers.repetition import RUN, repetition


def of(*responses: list[int], masks: list[list[int]] | None = None) -> float:
    columns = {"response_ids": Ragged.of(responses, np.int32)}
    return repetition(Batch(columns | ({"response_mask": Ragged.of(masks, np.uint8)} if masks else {})))


def test_by_hand() -> None:
    assert of([1, 2, 3, 4, 5]) == 0
    assert of([7] * 8) == pytest.approx(1 - 1 / 5), "five runs, one of them different"
    assert of([1, 2, 3, 4, 1, 2, 3, 4]) == pytest.approx(1 - 4 / 5)
    assert of([7] * 8, [1, 2, 3, 4, 5]) == pytest.approx(0.4), "a mean over responses"
    assert of([7] * 8, [1, 2, 3]) == pytest.approx(0.4), "what is too short repeats nothing"
    assert of([1, 2]) == of([]) == of([1, 2, 3], [1, 2, 3]) == 0
    assert of([1, 2, 3, 4], [1, 2, 3, 4]) == 0, "another response says the same: no repetition"


def test_runs_with_what_others_said_do_not_count() -> None:
    assert of([7] * 8, masks=[[1, 1, 1, 1, 0, 1, 1, 1]]) == 0
    assert of([7] * 10, masks=[[1, 1, 1, 1, 1, 0, 1, 1, 1, 1]]) == pytest.approx(1 - 1 / 3)


def test_as_counted_one_by_one() -> None:
    draw = np.random.default_rng(0)
    responses = [draw.integers(0, 3, draw.integers(0, 40)).tolist() for _ in range(50)]
    shares = []
    for response in responses:
        runs = [tuple(response[start : start + RUN]) for start in range(len(response) - RUN + 1)]
        shares.append(1 - len(set(runs)) / len(runs) if runs else 0.0)
    assert of(*responses) == pytest.approx(np.mean(shares))
    large = [[token + 2**31 - 10 for token in response] for response in responses]
    assert of(*large) == pytest.approx(np.mean(shares)), "of any vocabulary"
