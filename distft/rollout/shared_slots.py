"""Memory that processes of one machine share: one writes a slot while the others still read the one before."""

from __future__ import annotations

import mmap
import os
import secrets
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

COUNT = 2
_TOKEN_BYTES = 64  # keeps slots aligned for every element type


class CannotShare(OSError):
    """The memory of another process cannot be opened here: it is on another machine, or in another container."""


@dataclass(frozen=True)
class SharedSlots:
    """``slots`` are tensors of bytes, equally long. Nothing has to be removed: the memory goes with its last user.

    ``address`` is what another process opens it by.
    """

    slots: Sequence[Tensor]
    address: str

    @classmethod
    def make(cls, slot_bytes: int) -> SharedSlots:
        """New memory of ``COUNT`` slots. Raises OSError where the system has none."""
        descriptor = os.memfd_create("distft", os.MFD_CLOEXEC)
        try:
            os.ftruncate(descriptor, _TOKEN_BYTES + COUNT * slot_bytes)
            token = secrets.token_hex(_TOKEN_BYTES // 2)
            os.pwrite(descriptor, token.encode(), 0)
            address = f"/proc/{os.getpid()}/fd/{descriptor} {token}"
            return cls(_mapped(descriptor, slot_bytes), address)
        except BaseException:
            os.close(descriptor)
            raise

    @classmethod
    def open(cls, address: str, slot_bytes: int) -> SharedSlots:
        """The memory that another process made, until that process ``close``s it. Raises CannotShare."""
        path, token = address.split()
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            raise CannotShare(f"{path}: {error.strerror}") from error
        try:
            if os.pread(descriptor, _TOKEN_BYTES, 0) != token.encode():  # a process of that number here, too
                raise CannotShare(f"{path} is not what was shared")
            return cls(_mapped(descriptor, slot_bytes), address)
        finally:
            os.close(descriptor)

    def close(self) -> None:
        """Nobody else can open it from now on; who has goes on. By the process that made it, once."""
        os.close(int(self.address.split()[0].rpartition("/")[2]))


def _mapped(descriptor: int, slot_bytes: int) -> list[Tensor]:
    whole = torch.frombuffer(mmap.mmap(descriptor, _TOKEN_BYTES + COUNT * slot_bytes), dtype=torch.uint8)
    return list(whole[_TOKEN_BYTES:].view(COUNT, slot_bytes).unbind())
