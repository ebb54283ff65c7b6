"""Cutting responses at their ends."""

from __future__ import annotations

import numpy as np

from distft.rollout.responses import cut_responses


def test_rows_end_with_their_first_stop_token_or_at_the_limit() -> None:
    tokens = np.array([[5, 2, 2, 0], [5, 6, 7, 8], [9, 5, 5, 2], [2, 5, 5, 5]])
    logprobs = np.arange(16, dtype=np.float32).reshape(4, 4)
    batch = cut_responses(tokens, logprobs, (2, 9))
    responses = batch.ragged("response_ids")
    assert [row.tolist() for row in map(responses.__getitem__, range(4))] == [[5, 2], [5, 6, 7, 8], [9], [2]]
    assert batch.ragged("sampled_logprobs")[1].tolist() == [4, 5, 6, 7]
    assert batch.ragged("sampled_logprobs")[3].tolist() == [12]
    assert batch.dense("ended").tolist() == [1, 0, 1, 1]
    assert (responses.values.dtype, batch.dense("ended").dtype) == (np.int32, np.uint8)


def test_without_stop_tokens_nothing_ends() -> None:
    batch = cut_responses(np.array([[5, 6]]), np.zeros((1, 2), np.float32), ())
    assert batch.ragged("response_ids")[0].tolist() == [5, 6]
    assert batch.dense("ended").tolist() == [0]
