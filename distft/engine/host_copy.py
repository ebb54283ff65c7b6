"""A shard's bytes in host memory, so that they can be written to a file while training changes the tensors.

The memory is taken at the first copy and kept for the next; on a GPU it is page-locked, as in `asleep`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from distft.engine.asleep import CHUNK
from distft.engine.process_group import accelerator
from distft.engine.shards import Shard, bytes_of


class HostCopy:
    """Room for one copy at a time."""

    def __init__(self) -> None:
        self._chunks: list[Tensor] = []

    def take(self, shard: Shard) -> Shard:
        """The same file, of bytes that nobody changes until the next call. Raises MemoryError where there is no room
        for them."""
        on_gpu, end = accelerator().type == "cuda", 0
        for tensor in shard.tensors:
            left = bytes_of(tensor)
            while len(left):
                number, first = divmod(end, CHUNK)
                if number == len(self._chunks):
                    self._chunks.append(_room(on_gpu=on_gpu))
                size = min(len(left), CHUNK - first)
                self._chunks[number].narrow(0, first, size).copy_(left[:size], non_blocking=on_gpu)
                left, end = left[size:], end + size
        if on_gpu:
            torch.cuda.current_stream().synchronize()
        return Shard(shard.header, [chunk[: max(0, end - number * CHUNK)] for number, chunk in enumerate(self._chunks)])


def _room(*, on_gpu: bool) -> Tensor:
    try:
        return torch.empty(CHUNK, dtype=torch.uint8, pin_memory=on_gpu)
    except RuntimeError as error:
        raise MemoryError(str(error)) from error
