"""Whole weights from a trainer's first rank to generators in other processes, a bucket at a time.

A communicator of its own, over gloo: rank 0 sends, the others receive. What comes says first which version it is of and
which tensors belong to it, so that a sync that leaves some out, or brings another version, is known from a whole one.

A bucket lies in one of two slots. Where all are on one machine they share the slots, and the receivers read one while
the sender fills the other; else a bucket is broadcast.
"""

from __future__ import annotations

import json
import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any, TypeAlias

import torch
import torch.distributed as dist
from torch import Tensor

from distft.rollout.shared_slots import COUNT, SharedSlots

logger = logging.getLogger(__name__)

PACKED_BYTES = 16 * 2**20
_ALIGNED = 16  # bytes: a tensor begins where any element type may

Described: TypeAlias = tuple[str, list[int], str]  # name, shape, element type


class WeightSyncFailed(RuntimeError):
    """What came is not the weights of the version that was asked for."""


class ChannelBroken(RuntimeError):
    """Another end has gone. The channel is of no use any more; a new one may be opened."""


@dataclass(frozen=True)
class Announced:
    """The ``names`` of all tensors of a ``version``, and the tokens that end a response of such a model."""

    version: int
    names: Sequence[str]
    stop_tokens: Sequence[int]


class WeightChannel:
    """One end. ``rank`` 0 is the trainer's, the generators follow; all of ``size`` open it at the same time.

    ``number``: of those that the same ends have opened. All methods, and this, raise ChannelBroken where another end
    has gone.
    """

    def __init__(self, store: Any, rank: int, size: int, *, timeout_s: float, number: int = 0) -> None:
        timeout = timedelta(seconds=timeout_s)
        try:
            if isinstance(store, tuple):
                store = dist.TCPStore(store[0], store[1], is_master=False, timeout=timeout)  # type: ignore[attr-defined]
            self._store = dist.PrefixStore(f"weights {number}", store)  # type: ignore[attr-defined]
            self._group: Any = dist.ProcessGroupGloo(self._store, rank, size, timeout)
        except RuntimeError as error:
            raise ChannelBroken(str(error).strip().splitlines()[0]) from error
        self.number = number
        self._slots: Sequence[Tensor] = ()
        self._shared = False
        self._unread = False  # the receivers may still be reading the last bucket where it lies

    def send(self, announced: Announced, tensors: Iterable[tuple[str, Tensor]]) -> int:
        """What was announced; each tensor is read before the next is asked for. Returns the bytes sent."""
        sent = 0
        self._say(asdict(announced))
        for number, (described, bucket) in enumerate(_packed(tensors, self._room)):
            self._say({"tensors": described, "bytes": len(bucket), "slot": number % COUNT})
            self._settle()
            if self._shared:
                self._unread = True
            else:
                self._broadcast(bucket)
            sent += sum(torch.Size(shape).numel() * getattr(torch, dtype).itemsize for _, shape, dtype in described)
        self._say({"end": True})
        self._settle()
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
        """What is sent then; a tensor is there until the next one is asked for. Raises WeightSyncFailed where some do
        not come."""
        missing = dict.fromkeys(announced.names)
        while "end" not in (said := self._hear()):
            if "address" in said:
                self._share_theirs(said["address"], said["bytes"])
                continue
            bucket = self._slots[said["slot"]][: said["bytes"]]
            self._settle()
            if self._shared:
                self._unread = True
            else:
                self._broadcast(bucket)
            start = 0
            for name, shape, dtype in said["tensors"]:
                kind = getattr(torch, dtype)
                size = torch.Size(shape).numel() * kind.itemsize
                yield name, bucket[start : start + size].view(kind).view(shape)
                start += _aligned(size)
                missing.pop(name, None)
        self._settle()
        if missing:
            raise WeightSyncFailed(f"partial: {', '.join([*missing][:5])} did not come")

    def _settle(self) -> None:
        """Waits until the bucket before is read: the sender then fills its slot again. Of both ends, after each word
        on what follows it."""
        if self._unread:
            self._done(self._group.barrier())
            self._unread = False

    def _room(self, number: int, size: int) -> Tensor:
        """The sender's place for bucket ``number``, of at least ``size`` bytes."""
        if not self._slots or size > len(self._slots[0]):
            self._share_mine(_aligned(max(size, PACKED_BYTES)))
        return self._slots[number % COUNT]

    def _share_mine(self, size: int) -> None:
        """New slots, which the receivers open as well, or get their own of that size."""
        try:
            shared = SharedSlots.make(size)
        except OSError as error:
            logger.warning("weight sync: no memory to share (%s): weights are broadcast", error)
            shared = None
        try:
            self._say({"address": shared.address if shared else "", "bytes": size})
            self._begin(shared, size)
        finally:
            if shared:
                shared.close()

    def _share_theirs(self, address: str, size: int) -> None:
        try:
            shared = SharedSlots.open(address, size) if address else None
        except OSError as error:
            logger.info("weight sync: weights are broadcast: %s", error)
            shared = None
        self._begin(shared, size)

    def _begin(self, shared: SharedSlots | None, size: int) -> None:
        """Shared slots if all have them."""
        have = torch.tensor([shared is not None], dtype=torch.int64)
        options: Any = dist.AllreduceOptions()
        options.reduceOp = dist.ReduceOp.MIN
        self._done(self._group.allreduce([have], options))
        self._shared, self._unread = bool(have), False
        self._slots = shared.slots if shared and self._shared else torch.empty(COUNT, size, dtype=torch.uint8).unbind()

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
        self._done(self._group.broadcast([tensor]))

    def _done(self, work: Any) -> None:
        try:
            work.wait()
        except RuntimeError as error:  # gloo's own, of no narrower class
            del work
            self._group = None  # its connections end with it, by which the others know
            raise ChannelBroken(str(error).strip().splitlines()[0]) from error


def _packed(
    tensors: Iterable[tuple[str, Tensor]], room: Callable[[int, int], Tensor]
) -> Iterator[tuple[list[Described], Tensor]]:
    """Buckets of up to ``PACKED_BYTES``, or of one larger tensor; ``room`` gives each one's place, by its number."""
    number, described, end = 0, list[Described](), 0
    place = torch.empty(0, dtype=torch.uint8)
    for name, tensor in tensors:
        size = tensor.numel() * tensor.element_size()
        if described and end + size > PACKED_BYTES:
            yield described, place[:end]
            number, described, end = number + 1, [], 0
        if not described:
            place = room(number, size)
        place[end : end + size].view(tensor.dtype).view(tensor.shape).copy_(tensor.detach())
        described.append((name, list(tensor.shape), str(tensor.dtype).removeprefix("torch.")))
        end += _aligned(size)
    if described:
        yield described, place[:end]


def _aligned(size: int) -> int:
    return -(-size // _ALIGNED) * _ALIGNED
