"""Digests of tensors, a number for each sample: equal where the bits are, whatever rank and micro-batch has the sample.

A value is mixed with its place in its sample, the values of a sample are added up modulo 2^64, and the sum is mixed
with the sample's number and the tensor's name. So neither the order of samples nor padding counts, and digests of
samples may be added up over micro-batches and ranks in any order. The mixing is the finalizer of SplitMix64 (Steele,
Lea and Flood 2014): by chance two different tensors have the same digest once in 2^64 or so. It is no cryptography.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from hashlib import blake2b

import torch
from torch import Tensor

_SEED = 0x9E3779B97F4A7C15 - 2**64
_FIRST, _SECOND = 0xBF58476D1CE4E5B9 - 2**64, 0x94D049BB133111EB - 2**64
_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def sums_of_rows(
    columns: Sequence[Tensor], segments: Tensor, num_rows: int, *, places: Tensor | None = None,
    mask: Tensor | None = None,
) -> list[Tensor]:  # fmt: skip
    """Of each column int64 ``[num_rows]``, on its device, without waiting for it: what ``of_samples`` makes digests of.

    Args:
        columns: each ``[n]`` or ``[n, width]``, of any type.
        segments: int64 ``[n]``, in order: which of the rows each value belongs to.
        num_rows: how many rows there are.
        places: int64 ``[n]``, where each stands in its row; None: the first of a row at 0, the next at 1.
        mask: bool ``[n]``; what is False counts for nothing.
    """
    if not columns:
        return []
    if places is None:
        first = torch.searchsorted(segments, torch.arange(num_rows, device=segments.device))
        places = torch.arange(len(segments), device=segments.device) - first[segments]
    bits = [column.detach().contiguous().view(_BITS[column.element_size()]).long() for column in columns]
    widths = [math.prod(column.shape[1:]) for column in columns]
    values = torch.cat([one.reshape(len(one), width) for one, width in zip(bits, widths, strict=True)], 1)
    within = [torch.arange(1, width + 1, device=values.device) for width in widths]
    at = [places.unsqueeze(1) * width + one for width, one in zip(widths, within, strict=True)]
    mixed = _mixed(values + torch.cat(at, 1) * _SEED)
    if mask is not None:
        mixed = mixed * mask.unsqueeze(1)
    sums = mixed.new_zeros(num_rows, values.shape[1]).index_add_(0, segments, mixed)
    return [one.sum(1) for one in sums.split_with_sizes(widths, 1)]


def of_samples(names: Sequence[str], sums: Tensor, samples: Tensor) -> Tensor:
    """int64 ``[num_columns, num_rows]``: the digests of columns of these names, of the ``sums_of_rows`` of each and the
    numbers of the rows' samples."""
    own = torch.tensor([_of_name(name) for name in names], dtype=torch.int64).unsqueeze(1)
    return _mixed(sums + samples * _SEED + own)


def _mixed(numbers: Tensor) -> Tensor:
    numbers = (numbers ^ (numbers >> 30) & (2**34 - 1)) * _FIRST
    numbers = (numbers ^ (numbers >> 27) & (2**37 - 1)) * _SECOND
    return numbers ^ (numbers >> 31) & (2**33 - 1)


@cache
def _of_name(name: str) -> int:
    return int.from_bytes(blake2b(name.encode(), digest_size=8).digest(), "little", signed=True)
