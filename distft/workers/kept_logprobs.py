"""Log-probabilities of sequences' tokens in a folder that only grows, found by the tokens themselves.

::

    FOLDER/values.f32     of one sequence behind those of another, float32
    FOLDER/index.jsonl    a line for each addition: which sequences, how many tokens of each, a checksum

The line is the commit: what values lie behind the last one is of a writer that was killed, and is cut off. What is
asked for is mapped, so it takes no memory. One process writes.
"""

from __future__ import annotations

import hashlib
import json
import os
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from distft.batches import Batch, Ragged
from distft.common.files import JsonlWriter, sync_file

_VALUE: Final = np.dtype("<f4")


class KeptLogprobs:
    """Those of a folder, which is made. Raises OSError."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._values, self._index = folder / "values.f32", folder / "index.jsonl"
        self._places: dict[bytes, tuple[int, int]] = {}  # where the values of a sequence begin, and how many
        self._num_values = 0
        self._mapped: npt.NDArray[np.float32] = np.zeros(0, _VALUE)
        self._open()

    def missing(self, batch: Batch) -> list[int]:
        """The rows of which nothing is kept, each sequence once."""
        return self._missing(list(_names(batch)))

    def add(self, batch: Batch, column: str) -> None:
        """Keeps that column of the rows that are missing."""
        names = list(_names(batch))
        chosen = self._missing(names)
        if not chosen:
            return
        rows = batch.ragged(column).take(chosen)
        content = np.ascontiguousarray(rows.values, _VALUE).tobytes()
        with self._values.open("ab") as file:
            file.truncate(self._num_values * _VALUE.itemsize)  # of an addition that found no room
            file.write(content)
        sync_file(self._values)
        kept, lengths = [names[row] for row in chosen], rows.lengths.tolist()
        line = {"sequences": b"".join(kept).hex(), "lengths": lengths, "crc32": zlib.crc32(content)}
        with JsonlWriter(self._index) as writer:
            writer.append(line)
        self._take_in(kept, lengths)

    def column(self, batch: Batch) -> Ragged:
        """What is kept of all rows. Raises KeyError where nothing is of some."""
        places = [self._places[name] for name in _names(batch)]
        if len(self._mapped) < self._num_values:
            self._mapped = np.memmap(self._values, _VALUE, "r", shape=(self._num_values,))
        return Ragged.of([self._mapped[start : start + length] for start, length in places], np.float32)

    def _missing(self, names: Sequence[bytes]) -> list[int]:
        first = {name: row for row, name in reversed(list(enumerate(names))) if name not in self._places}
        return sorted(first.values())

    def _open(self) -> None:
        """Takes in the additions up to the first that is not whole; the rest goes."""
        lines = self._index.read_bytes().splitlines(keepends=True) if self._index.is_file() else []
        good = 0
        with self._values.open("ab+") as values:
            values.seek(0)
            for line in lines:
                if not (found := _read(line)):
                    break
                names, lengths, checksum = found
                content = values.read(sum(lengths) * _VALUE.itemsize)
                if len(content) < sum(lengths) * _VALUE.itemsize or zlib.crc32(content) != checksum:
                    break
                self._take_in(names, lengths)
                good += len(line)
            values.truncate(self._num_values * _VALUE.itemsize)
        if self._index.is_file():
            os.truncate(self._index, good)

    def _take_in(self, names: list[bytes], lengths: list[int]) -> None:
        for name, length in zip(names, lengths, strict=True):
            self._places[name] = (self._num_values, length)
            self._num_values += length


def _names(batch: Batch) -> Iterator[bytes]:
    """Of each row a hash of its tokens, and of where the response begins."""
    prompts, responses = batch.ragged("prompt_ids"), batch.ragged("response_ids")
    for row in range(len(batch)):
        digest = hashlib.blake2b(len(prompts[row]).to_bytes(8, "little"), digest_size=16)
        digest.update(np.ascontiguousarray(prompts[row], "<i4").tobytes())
        digest.update(np.ascontiguousarray(responses[row], "<i4").tobytes())
        yield digest.digest()


def _read(line: bytes) -> tuple[list[bytes], list[int], int] | None:
    """The names, lengths and checksum of a line; None where it is torn."""
    try:
        found = json.loads(line)
        names, lengths = bytes.fromhex(found["sequences"]), [int(length) for length in found["lengths"]]
        checksum = int(found["crc32"])
    except (ValueError, KeyError, TypeError):
        return None
    if not line.endswith(b"\n") or len(names) != 16 * len(lengths):
        return None
    return [names[at : at + 16] for at in range(0, len(names), 16)], lengths, checksum
