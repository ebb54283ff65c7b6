"""Weights in parts, so that what a rule computes of them is not as large as all of a rank's."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

# Elements of what a rule computes that exist at once.
CHUNK = 2**24


def in_chunks(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """The same run of each of the tensors, which are contiguous and of one shape, after the other."""
    return zip(*(torch.split(tensor.view(-1), CHUNK) for tensor in tensors), strict=True)
