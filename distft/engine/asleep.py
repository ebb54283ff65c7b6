"""The memory of a sleeping model: every storage of it copied to the host and emptied on the device.

Storages, not tensors: DeepSpeed's flat buffers and the parameters that are views of them stay one memory, so that
nothing has to know who is a view of whom, and all ZeRO stages sleep alike. DeepSpeed's own ``offload_states`` wants
its FusedAdam, and at stage 3 takes a frozen parameter for one of its buffer's.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from distft.engine.process_group import accelerator


class Asleep:
    """What has been sent away, until it is brought ``back``."""

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        self._kept: list[tuple[Any, Any, int]] = []
        seen: set[int] = set()
        for tensor in tensors:
            storage = tensor.untyped_storage()
            if tensor.device.type == accelerator().type and storage.nbytes() and storage.data_ptr() not in seen:
                seen.add(storage.data_ptr())
                kept = torch.empty(0, dtype=torch.uint8).untyped_storage()
                kept.resize_(storage.nbytes())
                kept.copy_(storage)
                self._kept.append((storage, kept, storage.nbytes()))
        for storage, _, _ in self._kept:
            storage.resize_(0)

    def back(self) -> None:
        """Fills the storages again, in new memory of the device."""
        with torch.no_grad():
            for storage, kept, size in self._kept:
                storage.resize_(size)
                storage.copy_(kept)
        self._kept = []
