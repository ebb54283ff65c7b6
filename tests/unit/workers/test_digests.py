"""Digests of samples: the same wherever a sample lies, others where a bit of it is another."""

from __future__ import annotations

from hashlib import blake2b
from itertools import accumulate

import numpy as np
import pytest
import torch
from torch import Tensor

from distft.workers.digests import bytes_of_rows, of_rows, told

ROWS = {3: [1.0, 2.0], 0: [5.0], 7: [], 4: [2.0, 1.0, -0.0]}


def of_samples(values: Tensor, ends: list[int], samples: list[int], name: str = "x") -> list[int]:
    return of_rows(name, bytes_of_rows(values, ends), told(samples)).tolist()


def digests(rows: dict[int, list[float]]) -> dict[int, int]:
    """Of float32 values by sample."""
    values = torch.tensor([value for row in rows.values() for value in row], dtype=torch.float32)
    ends = list(accumulate(len(row) for row in rows.values()))
    return dict(zip(rows, of_samples(values, ends, list(rows)), strict=True))


def test_it_is_the_formula() -> None:
    def by_hand(sample: int, row: list[float]) -> int:
        hashed = b"x\0" + sample.to_bytes(8, "little") + np.array(row, np.float32).tobytes()
        return int.from_bytes(blake2b(hashed, digest_size=8).digest(), "little")

    assert digests(ROWS) == {sample: by_hand(sample, row) for sample, row in ROWS.items()}


def test_neither_the_order_of_samples_nor_their_micro_batch_counts() -> None:
    whole = digests(ROWS)
    assert digests(dict(reversed(ROWS.items()))) == whole
    assert {**digests({4: ROWS[4], 7: ROWS[7]}), **digests({0: ROWS[0], 3: ROWS[3]})} == whole


@pytest.mark.parametrize(("sample", "row"), [
    (3, [2.0, 1.0]), (3, [1.0]), (3, [1.0, 2.0, 0.0]), (0, [5.0000005]), (7, [0.0]), (4, [2.0, 1.0, 0.0]),
])  # fmt: skip
def test_any_other_bit_or_place_counts_in_its_own_sample(sample: int, row: list[float]) -> None:
    before, after = digests(ROWS), digests({**ROWS, sample: row})
    assert {one for one in ROWS if before[one] != after[one]} == {sample}


def test_a_sample_and_a_name_have_digests_of_their_own() -> None:
    one, other = of_samples(torch.ones(2), [1, 2], [1, 2])
    assert one != other
    assert of_samples(torch.ones(2), [1, 2], [1, 2], "y")[0] != one


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.bfloat16, torch.int32, torch.int64, torch.float64])
def test_values_of_any_type_and_width(dtype: torch.dtype) -> None:
    values = torch.tensor([[1, 0], [0, 1], [1, 1]]).to(dtype)
    whole = of_samples(values, [1, 3], [0, 1])
    changed = values.clone()
    changed[2, 0] = 0
    again = of_samples(changed, [1, 3], [0, 1])
    assert whole[0] == again[0]
    assert whole[1] != again[1]
    transposed = values.t().contiguous().t()
    assert of_samples(transposed, [1, 3], [0, 1]) == whole
