"""Raw generations to responses. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from distft.batches import Array, Batch, Ragged


def cut_responses(tokens: Array, logprobs: Array, stop_tokens: Sequence[int]) -> Batch:
    """Each row of ``tokens [rows, length]`` up to and with its first stop token.

    A row without one was cut at the limit: it stays as it is (no EOS is appended) and ``ended`` is 0.
    """
    rows, kept, ended = [], [], []
    for row, row_logprobs in zip(tokens, logprobs, strict=True):
        stops = np.flatnonzero(np.isin(row, list(stop_tokens)))
        end = int(stops[0]) + 1 if len(stops) else len(row)
        rows.append(row[:end])
        kept.append(row_logprobs[:end])
        ended.append(len(stops) > 0)
    return Batch(
        {
            "response_ids": Ragged.of(rows, np.int32),
            "sampled_logprobs": Ragged.of(kept, np.float32),
            "ended": np.array(ended, np.uint8),
        }
    )


def no_responses() -> Batch:
    """What a rank without samples answers."""
    empty = Ragged.of([], np.int32)
    return Batch(
        {
            "response_ids": empty,
            "sampled_logprobs": Ragged.of([], np.float32),
            "ended": np.zeros(0, np.uint8),
            "sample": np.zeros(0, np.int64),
        }
    )
