"""Answers to other prompts, and what they say of a policy."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from distft.batches import Batch, Ragged
from distft.workers.kl_baseline import kl_baseline, mismatched


def rows(prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]], **columns: Ragged) -> Batch:
    numbers = np.arange(len(prompts))
    made = {"prompt_ids": Ragged.of(prompts, np.int32), "response_ids": Ragged.of(answers, np.int32)}
    return Batch({**made, "sample": numbers, "unit": numbers, **columns})


def taken(found: Batch, name: str = "response_ids") -> list[list[int]]:
    return [found.ragged(name)[row].tolist() for row in range(len(found))]


def test_answers_move_on_by_one_as_in_trl() -> None:
    found = mismatched(rows([[1], [2], [3]], [[11, 12], [21], [31, 32]]), 10)
    assert taken(found) == [[31, 32], [11, 12], [21]]
    assert taken(found, "prompt_ids") == [[1], [2], [3]]
    assert taken(found, "response_mask") == [[1, 1], [1, 1], [1]]


def test_they_move_on_until_the_prompts_differ() -> None:
    """Both answers of pairs beside each other; and every answer is taken once."""
    pairs = rows([[1], [1], [2], [2]], [[11], [12], [21], [22]])
    assert taken(mismatched(pairs, 10)) == [[21], [22], [11], [12]]
    half = rows([[1], [1], [1], [2]], [[11], [12], [13], [21]])
    assert sorted(taken(mismatched(half, 10))) == [[11], [12], [13], [21]]
    same = rows([[1], [1], [1]], [[11], [12], [13]])
    assert taken(mismatched(same, 10)) == [[13], [11], [12]]
    assert taken(mismatched(rows([[1]], [[11]]), 10)) == [[11]]  # nothing else is there


def test_they_are_cut_and_keep_what_is_not_learned() -> None:
    masks = Ragged.of([[0, 1, 1], [1, 0]], np.uint8)
    found = mismatched(rows([[1], [2, 2, 2]], [[11, 12, 13], [21, 22]], response_mask=masks), 5)
    assert taken(found) == [[21, 22], [11, 12]]
    assert taken(found, "response_mask") == [[1, 0], [0, 1]]


def test_nothing_predicts_the_first_token_behind_no_prompt() -> None:
    found = mismatched(rows([[], [2]], [[11, 12], [21, 22]]), 5)
    assert taken(found, "response_mask") == [[0, 1], [1, 1]]


@pytest.mark.parametrize(("policy", "value"), [([[-1.0, -1.0], [-4.0]], 0.25), ([[-2.0, -2.0], [-4.0]], 0.0)])
def test_the_mean_of_summed_log_ratios_and_never_below_0(policy: list[list[float]], value: float) -> None:
    reference = Ragged.of([[-2.0, -1.5], [-3.0]], np.float32)
    read = Batch({"sample": np.array([5, 3]), "logprobs": Ragged.of(policy, np.float32), "ref_logprobs": reference})
    found = kl_baseline(read)
    assert found.dense("baseline").tolist() == [value, value]
    assert found.dense("sample").tolist() == [5, 3]
