"""The memory of a sleeping model: its storages given up on the device, what is needed again kept on the host.

Storages, not tensors: DeepSpeed's flat buffers and the parameters that are views of them stay one memory, so that
nothing has to know who is a view of whom, and all ZeRO stages sleep alike. DeepSpeed's own ``offload_states`` wants
its FusedAdam, and at stage 3 takes a frozen parameter for one of its buffer's.

Places on the host are made at the first sleep and used again (on a GPU page-locked: 55 GB/s both ways on an H100,
where new pageable memory each time came to 1.6 out and 6.5 back). What is frozen goes there once; gradients, which
between steps nobody reads, do not go at all and are zeros again. A model sleeps and wakes in two parts: its weights,
which every pass needs, and its states, which only a step does and which may come back while the pass computes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor

from distft.common.verb import DevicePart
from distft.engine.process_group import accelerator

Fate: TypeAlias = Literal["gradient", "state", "frozen", "changing"]
BOTH: tuple[DevicePart, ...] = ("weights", "states")
# Bytes taken from the system at once: torch rounds page-locked memory up to a power of two.
CHUNK = 64 * 2**20
ALIGNMENT = 256


@dataclass
class _Place:
    """A storage of the device and its room on the host; ``current``: what lies there is what the storage holds.

    Gradients have no room: they are let go of.
    """

    storage: Any
    size: int
    fate: Fate
    room: list[Tensor] = field(default_factory=list)
    current: bool = False
    out: bool = False

    @property
    def part(self) -> DevicePart:
        return _part_of(self.fate)


class Asleep:
    """A model's memory while it sleeps, and the places for it on the host meanwhile and between."""

    def __init__(self) -> None:
        self._places: dict[int, _Place] = {}
        self._rooms = _Rooms()
        self._transfers = _Transfers()

    def sleep(self, tensors: Iterable[tuple[Tensor, Fate]], parts: Collection[DevicePart] = BOTH) -> int:
        """Empties the storages of those tensors on the device that belong to ``parts``. Returns the bytes that were
        copied out.
        """
        self.finish()
        found = _storages(tensors)
        for key, place in list(self._places.items()):
            if key not in found and not place.out:  # a tensor that was made anew since
                self._rooms.give_back(place.size, self._places.pop(key).room)
        copied, leaving = 0, []
        for key, (storage, fate) in found.items():
            if _part_of(fate) not in parts:
                continue
            place = self._places.setdefault(key, _Place(storage, storage.nbytes(), fate))
            leaving.append(place)
            if fate == "gradient":
                continue
            place.room = place.room or self._rooms.take(place.size)
            if fate != "frozen" or not place.current:
                self._transfers.copy(place, out=True)
                copied += place.size
            place.current = True
        self._transfers.finish()
        for place in leaving:
            place.out = True
            place.storage.resize_(0)
        return copied

    def wake(self, parts: Collection[DevicePart] = BOTH) -> int:
        """Fills the storages of ``parts`` again, in new memory of the device; the states are begun only, see
        ``finish``. Returns the bytes that are copied back.
        """
        coming = {key: place for key, place in self._places.items() if place.out and place.part in parts}
        for key, place in coming.items():
            place.storage.resize_(place.size)
            place.out = False
            if place.fate == "gradient":
                _bytes_of(place.storage).zero_()
                del self._places[key]  # or it would be held beyond the step that frees it
        moved = [place for place in coming.values() if place.fate != "gradient"]
        for part in BOTH:
            for place in moved:
                if place.part == part:
                    self._transfers.copy(place, out=False)
            if part == "weights":
                self._transfers.finish()
        return sum(place.size for place in moved)

    def forget(self) -> None:
        """What is frozen was written to: it goes to the host once more."""
        for place in self._places.values():
            place.current = False

    def finish(self) -> None:
        """Waits for states that are still on their way back: before anything reads them."""
        self._transfers.finish()


class _Transfers:
    """Copies between storages and their rooms that are begun together and waited for together.

    On a GPU on a stream of their own, so that it computes meanwhile; elsewhere they are made when they are waited for.
    """

    def __init__(self) -> None:
        self._begun: list[tuple[Tensor, Tensor]] = []
        self._stream: Any = None

    def copy(self, place: _Place, *, out: bool) -> None:
        """Begins to copy a storage."""
        there, first = _bytes_of(place.storage), 0
        for piece in place.room:
            part = there.narrow(0, first, len(piece))
            first += len(piece)
            target, source = (piece, part) if out else (part, piece)
            if accelerator().type == "cuda":
                self._on_stream(target, source)
            self._begun.append((target, source))

    def finish(self) -> None:
        """Returns when all that was begun is copied."""
        begun, self._begun = self._begun, []
        if self._stream is not None:
            self._stream.synchronize()
            return
        for target, source in begun:
            target.copy_(source)

    def _on_stream(self, target: Tensor, source: Tensor) -> None:
        if self._stream is None:
            self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        self._stream.wait_stream(torch.cuda.current_stream())  # what was computed, and who had this memory before
        with torch.cuda.stream(self._stream):
            target.copy_(source, non_blocking=True)


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


def _part_of(fate: Fate) -> DevicePart:
    return "states" if fate in ("gradient", "state") else "weights"


def _storages(tensors: Iterable[tuple[Tensor, Fate]]) -> dict[int, tuple[Any, Fate]]:
    """The storages on the device that hold anything, each once, by the address of the storage object. One that tensors
    of several fates share changes, but for gradients, which may go with anything.
    """
    found: dict[int, tuple[Any, Fate]] = {}
    for tensor, fate in tensors:
        storage = tensor.untyped_storage()
        if tensor.device.type != accelerator().type or not storage.nbytes():
            continue
        _, before = found.get(storage._cdata, (None, fate))
        kinds = {before, fate} - {"gradient"}
        found[storage._cdata] = (storage, "gradient" if not kinds else kinds.pop() if len(kinds) == 1 else "changing")
    return found


def _bytes_of(storage: Any) -> Tensor:
    return torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage)
