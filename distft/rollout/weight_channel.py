"""Whole weights from a trainer's first rank to generators in other processes, a bucket at a time.

A communicator of its own, over gloo: rank 0 sends, the others receive. What comes says first which version it is of and
which tensors belong to it, so that a sync that leaves some out, or brings another version, is known from a whole one.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any, TypeAlias

import torch
import torch.distributed as dist
from torch import Tensor

PACKED_BYTES = 64 * 2**20
_ALIGNED = 16  # bytes: a tensor begins where any element type may

Described: TypeAlias = tuple[str, list[int], str]  # name, shape, element type


class WeightSyncFailed(RuntimeError):
    """What came is not the weights of the version that was asked for."""


@dataclass(frozen=True)
class Announced:
    """The ``names`` of all tensors of a ``version``, and the tokens that end a response of such a model."""

    version: int
    names: Sequence[str]
    stop_tokens: Sequence[int]


class WeightChannel:
    """One end. ``rank`` 0 is the trainer's, the generators follow; all of ``size`` open it at the same time."""

    def __init__(self, store: Any, rank: int, size: int, *, timeout_s: float) -> None:
        timeout = timedelta(seconds=timeout_s)
        if isinstance(store, tuple):
            store = dist.TCPStore(store[0], store[1], is_master=False, timeout=timeout)  # type: ignore[attr-defined]
        self._store = dist.PrefixStore("weights", store)  # type: ignore[attr-defined]
        self._group: Any = dist.ProcessGroupGloo(self._store, rank, size, timeout)

    def send(self, announced: Announced, tensors: Iterable[tuple[str, Tensor]]) -> int:
        """What was announced; each tensor is read before the next is asked for. Returns the bytes sent."""
        sent = 0
        self._say(asdict(announced))
        for described, buffer in _packed(tensors):
            self._say({"tensors": described, "bytes": len(buffer)})
            self._broadcast(buffer)
            sent += sum(torch.Size(shape).numel() * getattr(torch, dtype).itemsize for _, shape, dtype in described)
        self._say({"end": True})
        return sent

    def hear(self, version: int) -> Announced:
        """What is going to be sent. Raises WeightSyncFailed where it is not ``version``, when it has come: the sender
        waits for nobody."""
        announced = Announced(**self._hear())
        if announced.version != version:
            deque(self.receive(announced), maxlen=0)
            raise WeightSyncFailed(f"stale: the weights of version {announced.version} came, not of {version}")
        return announced

    def receive(self, announced: Announced) -> Iterator[tuple[str, Tensor]]:
        """What is sent then; every tensor is the caller's to keep. Raises WeightSyncFailed where some do not come."""
        missing = dict.fromkeys(announced.names)
        while "end" not in (said := self._hear()):
            buffer = torch.empty(said["bytes"], dtype=torch.uint8)
            self._broadcast(buffer)
            start = 0
            for name, shape, dtype in said["tensors"]:
                kind = getattr(torch, dtype)
                size = torch.Size(shape).numel() * kind.itemsize
                yield name, buffer[start : start + size].view(kind).view(shape)
                start += _aligned(size)
                missing.pop(name, None)
        if missing:
            raise WeightSyncFailed(f"partial: {', '.join([*missing][:5])} did not come")

    def _say(self, message: dict[str, Any]) -> None:
        words = torch.frombuffer(bytearray(json.dumps(message).encode()), dtype=torch.uint8)
        self._broadcast(torch.tensor([len(words)]))
        self._broadcast(words)

    def _hear(self) -> dict[str, Any]:
        length = torch.zeros(1, dtype=torch.int64)
        self._broadcast(length)
        words = torch.empty(int(length), dtype=torch.uint8)
        self._broadcast(words)
        message: dict[str, Any] = json.loads(words.numpy().tobytes())
        return message

    def _broadcast(self, tensor: Tensor) -> None:
        self._group.broadcast([tensor]).wait()


def _packed(tensors: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[list[Described], Tensor]]:
    """Buckets of up to ``PACKED_BYTES``, or of one larger tensor, in host memory that the next bucket takes over."""
    described: list[Described] = []
    buffer, end = torch.empty(PACKED_BYTES, dtype=torch.uint8), 0
    for name, tensor in tensors:
        size = tensor.numel() * tensor.element_size()
        if described and end + size > len(buffer):
            yield described, buffer[:end]
            described, end = [], 0
        if size > len(buffer):
            buffer = torch.empty(_aligned(size), dtype=torch.uint8)
        buffer[end : end + size].view(tensor.dtype).view(tensor.shape).copy_(tensor.detach())
        described.append((name, list(tensor.shape), str(tensor.dtype).removeprefix("torch.")))
        end = min(end + _aligned(size), len(buffer))
    if described:
        yield described, buffer[:end]


def _aligned(size: int) -> int:
    return -(-size // _ALIGNED) * _ALIGNED
