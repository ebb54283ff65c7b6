"""The memory of a sleeping model: every storage of it given up on the device, what is needed again kept on the host.

Storages, not tensors: DeepSpeed's flat buffers and the parameters that are views of them stay one memory, so that
nothing has to know who is a view of whom, and all ZeRO stages sleep alike. DeepSpeed's own ``offload_states`` wants
its FusedAdam, and at stage 3 takes a frozen parameter for one of its buffer's.

Places on the host are made at the first sleep and used again (on a GPU page-locked: 55 GB/s both ways on an H100,
where new pageable memory each time came to 1.6 out and 6.5 back). What is frozen goes there once; gradients, which
between steps nobody reads, do not go at all and are zeros again.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor

from distft.engine.process_group import accelerator

Fate: TypeAlias = Literal["gradient", "frozen", "changing"]
# A storage that several tensors share has the last of their fates.
ORDER: tuple[Fate, ...] = ("gradient", "frozen", "changing")
# Bytes taken from the system at once: torch rounds page-locked memory up to a power of two.
CHUNK = 64 * 2**20
ALIGNMENT = 256


@dataclass
class _Place:
    """A storage of the device and its room on the host; ``current``: what lies there is what the storage holds."""

    storage: Any
    size: int
    room: list[Tensor]
    current: bool = False


class Asleep:
    """A model's memory while it sleeps, and the places for it on the host meanwhile and between."""

    def __init__(self) -> None:
        self._places: dict[int, _Place] = {}
        self._let_go: list[tuple[Any, int]] = []
        self._rooms = _Rooms()

    def sleep(self, tensors: Iterable[tuple[Tensor, Fate]]) -> int:
        """Empties the storages of these tensors on the device. Returns the bytes that were copied out."""
        found = _storages(tensors)
        for key in self._places.keys() - found.keys():  # a tensor that was made anew since
            gone = self._places.pop(key)
            self._rooms.give_back(gone.size, gone.room)
        copied = 0
        for key, (storage, fate) in found.items():
            size = storage.nbytes()
            if fate == "gradient":
                self._let_go.append((storage, size))
                continue
            place = self._places.setdefault(key, _Place(storage, size, []))
            place.room = place.room or self._rooms.take(size)
            if fate == "changing" or not place.current:
                _copy(place, out=True)
                copied += size
            place.current = True
        _wait()
        for storage, _ in found.values():
            storage.resize_(0)
        return copied

    def wake(self) -> int:
        """Fills the storages again, in new memory of the device. Returns the bytes that were copied back."""
        for storage, size in self._let_go:
            storage.resize_(size)
            _bytes_of(storage).zero_()
        self._let_go = []
        for place in self._places.values():
            place.storage.resize_(place.size)
            _copy(place, out=False)
        _wait()
        return sum(place.size for place in self._places.values())


class _Rooms:
    """Host memory in chunks, of which rooms are cut; a room that is given back is taken again for the same size."""

    def __init__(self) -> None:
        self._chunk: Tensor | None = None
        self._used = 0
        self._spare: dict[int, list[list[Tensor]]] = {}

    def take(self, size: int) -> list[Tensor]:
        """Room for so many bytes, in one piece or several."""
        if spare := self._spare.get(size):
            return spare.pop()
        room = []
        while size:
            if self._chunk is None or self._used >= CHUNK:
                self._chunk = torch.empty(CHUNK, dtype=torch.uint8, pin_memory=accelerator().type == "cuda")
                self._used = 0
            part = min(size, CHUNK - self._used)
            room.append(self._chunk.narrow(0, self._used, part))
            self._used += -(-part // ALIGNMENT) * ALIGNMENT
            size -= part
        return room

    def give_back(self, size: int, room: list[Tensor]) -> None:
        """Leaves a room to the next of its size."""
        self._spare.setdefault(size, []).append(room)


def _storages(tensors: Iterable[tuple[Tensor, Fate]]) -> dict[int, tuple[Any, Fate]]:
    """The storages on the device that hold anything, each once, by the address of the storage object."""
    found: dict[int, tuple[Any, Fate]] = {}
    for tensor, fate in tensors:
        storage = tensor.untyped_storage()
        if tensor.device.type != accelerator().type or not storage.nbytes():
            continue
        _, before = found.get(storage._cdata, (None, fate))
        found[storage._cdata] = (storage, max(before, fate, key=ORDER.index))
    return found


def _bytes_of(storage: Any) -> Tensor:
    return torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage)


def _copy(place: _Place, *, out: bool) -> None:
    """Between a storage and its room; on a GPU only begun."""
    there, first = _bytes_of(place.storage), 0
    for piece in place.room:
        part = there.narrow(0, first, len(piece))
        first += len(piece)
        target, source = (piece, part) if out else (part, piece)
        target.copy_(source, non_blocking=True)


def _wait() -> None:
    """Until what was begun is done: other streams than this one may read the storages next."""
    if accelerator().type == "cuda":
        torch.cuda.synchronize()
