"""Files with a bit of them turned, seeded."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def turned(content: bytes, seed: str) -> bytes:
    """The content with one bit turned."""
    dice = random.Random(seed)
    damaged = bytearray(content)
    damaged[dice.randrange(len(content))] ^= 1 << dice.randrange(8)
    return bytes(damaged)


def flip(path: Path, at: int | None = None) -> None:
    """Turns the lowest bit of the file's byte there, or of the one in its middle."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2 if at is None else at] ^= 1
    path.write_bytes(content)


@contextmanager
def bits_turned(path: Path, times: int) -> Iterator[Iterator[str]]:
    """Each time around, the file has another bit turned; afterwards it is as before."""
    content = path.read_bytes()

    def each() -> Iterator[str]:
        for number in range(times):
            seed = f"{path.name} {number}"
            path.write_bytes(turned(content, seed))
            yield seed

    try:
        yield each()
    finally:
        path.write_bytes(content)
