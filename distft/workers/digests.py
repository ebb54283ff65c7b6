"""Digests of tensors, a number for each sample: equal where the bits are, whatever rank and micro-batch has the sample.

A digest is 64 bits of BLAKE2b, of the tensor's name, the sample's number and the bytes of the sample's values. Those of
samples may be added up over micro-batches and ranks in any order.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from hashlib import blake2b
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor


def of_rows(name: str, rows: Iterable[bytes | memoryview], samples: Sequence[bytes]) -> npt.NDArray[np.uint64]:
    """``[num_rows]``, of the bytes of each row. ``samples``: see ``told``."""
    named = name.encode() + b"\0"
    found = [
        blake2b(b"".join((named, sample, row)), digest_size=8).digest()
        for row, sample in zip(rows, samples, strict=True)
    ]
    return np.frombuffer(b"".join(found), "<u8")


def told(samples: Sequence[int]) -> list[bytes]:
    """Numbers of samples as ``of_rows`` takes them."""
    return [sample.to_bytes(8, "little", signed=True) for sample in samples]


def bytes_of_rows(values: Tensor, ends: Sequence[int]) -> list[memoryview]:
    """Of values ``[n]`` or ``[n, width]`` of any type, on the host, the bytes of each row; row i goes up to the value
    before ``ends[i]``."""
    flat = values.detach().flatten()
    raw = flat.view(torch.uint8).numpy().data if len(flat) else memoryview(b"")
    width = values.element_size() * math.prod(values.shape[1:])
    places = [0, *(end * width for end in ends)]
    return [raw[first:last] for first, last in pairwise(places)]
