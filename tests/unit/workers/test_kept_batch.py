"""Columns in a checkpoint's file: all that was written comes back, in the order of the samples."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from distft.batches import Batch, Ragged
from distft.workers.kept_batch import read_batch, write_batch


def test_what_is_written_is_read_in_the_order_of_its_samples(tmp_path: Path) -> None:
    batch = Batch(
        {
            "response_ids": Ragged.of([[7, 8], [], [9]], np.int32),
            "sampled_logprobs": Ragged.of([[-0.1, -0.2], [], [-3.0]], np.float32),
            "routed_experts": Ragged.of([[[3, 0], [1, 2]], np.zeros((0, 2)), [[250, 4]]], np.uint8),
            "ended": np.array([1, 0, 1], np.uint8),
            "sample": np.array([2, 0, 1], np.int64),
        }
    )
    write_batch(tmp_path / "rollout" / "ahead.safetensors", batch)
    found = read_batch(tmp_path / "rollout" / "ahead.safetensors")
    assert set(found.columns) == set(batch.columns)
    assert found.dense("sample").tolist() == [0, 1, 2]
    assert [found.ragged("response_ids")[row].tolist() for row in range(3)] == [[], [9], [7, 8]]
    for name, column in batch.take([1, 2, 0]).columns.items():
        ours = found.columns[name]
        assert type(ours) is type(column)
        values, same = (c.values if isinstance(c, Ragged) else c for c in (ours, column))
        assert values.dtype == same.dtype
        assert np.array_equal(values, same)
