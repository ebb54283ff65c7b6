"""Digests of samples: the same wherever a sample lies, others where a bit of it is another."""

from __future__ import annotations

from hashlib import blake2b

import numpy as np
import pytest
import torch
from torch import Tensor

from distft.workers import digests as digests_module
from distft.workers.digests import sums_of_rows

MASK = 2**64 - 1
GOLDEN = 0x9E3779B97F4A7C15


def mixed(number: int) -> int:
    """SplitMix64's finalizer in whole numbers."""
    number = (number ^ (number >> 30)) * 0xBF58476D1CE4E5B9 & MASK
    number = (number ^ (number >> 27)) * 0x94D049BB133111EB & MASK
    return number ^ (number >> 31)


def by_hand(name: str, sample: int, bits: list[int]) -> int:
    total = sum(mixed((one + GOLDEN * place) & MASK) for place, one in enumerate(bits, 1))
    own = int.from_bytes(blake2b(name.encode(), digest_size=8).digest(), "little")
    return mixed((total + sample * GOLDEN + own) & MASK)


def of_samples(name: str, values: Tensor, segments: Tensor, samples: Tensor, mask: Tensor | None = None) -> Tensor:
    (sums,) = sums_of_rows([values], segments, len(samples), mask=mask)
    return digests_module.of_samples([name], sums, samples)[0]


def unsigned(digests: Tensor) -> list[int]:
    return digests.numpy().view(np.uint64).tolist()


def digests(rows: dict[int, list[float]], mask: list[bool] | None = None) -> dict[int, int]:
    """Of float32 values by sample."""
    lengths = [len(row) for row in rows.values()]
    segments = torch.repeat_interleave(torch.arange(len(rows)), torch.tensor(lengths))
    values = torch.tensor([value for row in rows.values() for value in row], dtype=torch.float32)
    told = None if mask is None else torch.tensor(mask)
    return dict(
        zip(rows, unsigned(of_samples("x", values, segments, torch.tensor(list(rows)), mask=told)), strict=True)
    )


ROWS = {3: [1.0, 2.0], 0: [5.0], 7: [], 4: [2.0, 1.0, -0.0]}


def test_it_is_the_formula() -> None:
    bits = {sample: [int(np.float32(value).view(np.int32)) for value in row] for sample, row in ROWS.items()}
    assert digests(ROWS) == {sample: by_hand("x", sample, row) for sample, row in bits.items()}


def test_neither_the_order_of_samples_nor_their_micro_batch_counts() -> None:
    whole = digests(ROWS)
    assert digests(dict(reversed(ROWS.items()))) == dict(reversed(whole.items()))
    assert {**digests({4: ROWS[4], 7: ROWS[7]}), **digests({0: ROWS[0], 3: ROWS[3]})} == whole


@pytest.mark.parametrize(("sample", "row"), [
    (3, [2.0, 1.0]), (3, [1.0]), (3, [1.0, 2.0, 0.0]), (0, [5.0000005]), (7, [0.0]), (4, [2.0, 1.0, 0.0]),
])  # fmt: skip
def test_any_other_bit_or_place_counts_in_its_own_sample(sample: int, row: list[float]) -> None:
    before, after = digests(ROWS), digests({**ROWS, sample: row})
    assert {one for one in ROWS if before[one] != after[one]} == {sample}


def test_a_sample_and_a_name_have_digests_of_their_own() -> None:
    values, segments = torch.ones(2), torch.arange(2)
    one, other = unsigned(of_samples("x", values, segments, torch.tensor([1, 2])))
    assert one != other
    assert unsigned(of_samples("y", values, segments, torch.tensor([1, 2])))[0] != one


def test_what_is_masked_does_not_count() -> None:
    mask = [True, False, True, True, True, False]
    assert digests(ROWS, mask) == digests({**ROWS, 3: [1.0, 9.0], 4: [2.0, 1.0, 5.0]}, mask)
    assert digests(ROWS, mask) != digests(ROWS)


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.bfloat16, torch.int32, torch.int64, torch.float64])
def test_values_of_any_type_and_width(dtype: torch.dtype) -> None:
    values = torch.tensor([[1, 0], [0, 1], [1, 1]]).to(dtype)
    told = of_samples("x", values, torch.tensor([0, 1, 1]), torch.tensor([0, 1]))
    changed = values.clone()
    changed[2, 0] = 0
    again = of_samples("x", changed, torch.tensor([0, 1, 1]), torch.tensor([0, 1]))
    assert told[0] == again[0]
    assert told[1] != again[1]
