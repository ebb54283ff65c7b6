"""A rollout batch to compute with by hand."""

from __future__ import annotations

import numpy as np

from distft.batches import Batch, Column, Ragged


def rollout(**columns: Column) -> Batch:
    """Two responses of 2 and 1 tokens; the second was cut at the limit."""
    return Batch(
        {
            "sample": np.array([4, 7]),
            "response_ids": Ragged.of([[5, 6], [7]], np.int32),
            "old_logprobs": Ragged.of([[-1.0, -2.0], [-0.5]], np.float32),
            "ref_logprobs": Ragged.of([[-1.5, -2.0], [-1.0]], np.float32),
            "sampled_logprobs": Ragged.of([[-1.0, -2.25], [-0.5]], np.float32),
            "entropy": Ragged.of([[1.0, 2.0], [3.0]], np.float32),
            "values": Ragged.of([[0.2, 0.4], [0.1]], np.float32),
            "score": np.array([1.0, -1.0], np.float32),
            "ended": np.array([1, 0], np.uint8),
            **columns,
        }
    )
