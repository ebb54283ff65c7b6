"""Pieces of tensors in safetensors files, one of each rank: written a piece at a time, read by name and place.

The key ``exp_avg/4096/model.lm_head.weight`` is the piece of that parameter's ``exp_avg`` from its element 4096 on.
What a file holds says nothing of the ranks that read it, so that other ones than those that wrote it may.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

# All that safetensors has a name for and torch a type: the buffers of a model may be of any.
_DTYPES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3", torch.float8_e4m3fnuz: "F8_E4M3FNUZ",
    torch.float8_e5m2: "F8_E5M2", torch.float8_e5m2fnuz: "F8_E5M2FNUZ", torch.complex64: "C64",
    torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8",
    torch.uint64: "U64", torch.uint32: "U32", torch.uint16: "U16", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip
_NAMES = "states_*.safetensors"
_BUFFERS = "buffer/"
_ALIGNMENT = 8
_BUFFER = 4 * 2**20
_OPEN_AT_ONCE = 64  # files, of the hundreds that a large run has


def shard_file(folder: Path, rank: int) -> Path:
    """The file of a rank."""
    return folder / _NAMES.replace("*", str(rank))


def piece_key(kind: str, start: int, name: str) -> str:
    """The key of a piece."""
    return f"{kind}/{start}/{name}"


@dataclass(frozen=True)
class Made:
    """A tensor that does not exist until its bytes are asked for."""

    shape: torch.Size
    dtype: torch.dtype
    make: Callable[[], Tensor]


@dataclass(frozen=True)
class Shard:
    """A safetensors file before it is one: its header, and the tensors whose bytes follow, one after the other.

    safetensors' own writer holds all of a file in memory a second time, which a rank has no room for.
    """

    header: bytes
    tensors: Sequence[Tensor | Made]

    def write(self, path: Path) -> None:
        """The folder is made where it is not there. Raises OSError."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb", buffering=_BUFFER) as file:
            file.write(len(self.header).to_bytes(8, "little"))
            file.write(self.header)
            for tensor in self.tensors:
                file.write(bytes_of(tensor).cpu().numpy().data)


def make_shard(
    pieces: Sequence[tuple[str, Tensor | Made]], buffers: Mapping[str, Tensor], facts: Mapping[str, Any]
) -> Shard:
    """Of the pieces by key, of whole buffers by name, and of ``facts`` (JSON)."""
    tensors = [*pieces, *((_BUFFERS + name, buffer) for name, buffer in buffers.items())]
    header: dict[str, Any] = {"__metadata__": {"facts": json.dumps(facts)}}
    end = 0
    for key, tensor in tensors:
        begin, end = end, end + tensor.shape.numel() * tensor.dtype.itemsize
        header[key] = {"dtype": _DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [begin, end]}
    written = json.dumps(header).encode()
    return Shard(written + b" " * (-len(written) % _ALIGNMENT), [tensor for _, tensor in tensors])


def bytes_of(tensor: Tensor | Made) -> Tensor:
    """A tensor's bytes, flat, where it lies."""
    tensor = tensor.make() if isinstance(tensor, Made) else tensor
    return tensor.detach().reshape(-1).view(torch.uint8)


class Shards:
    """What all ranks wrote into ``folder``. The file of rank ``first`` is looked into before the others, which a rank
    that finds its own pieces there never opens. Raises FileNotFoundError where there are none."""

    def __init__(self, folder: Path, first: int = 0) -> None:
        own = shard_file(folder, first)
        others = sorted(path for path in folder.glob(_NAMES) if path != own)
        self._unread = [*([own] if own.is_file() else []), *others]
        if not self._unread:
            raise FileNotFoundError(f"no engine state in {folder}")
        self._folder = folder
        self._files: dict[Path, Any] = {}
        self._index: dict[tuple[str, str], list[tuple[int, int, Path, str]]] = defaultdict(list)
        with safe_open(self._unread[0], "pt") as file:
            self.facts: dict[str, Any] = json.loads(file.metadata()["facts"])

    def read(self, kind: str, name: str, start: int, target: Tensor) -> None:
        """Fills ``target``, flat, from the element ``start`` on. Raises RuntimeError where no rank wrote some of it."""
        end, missing = start + target.numel(), target.numel()
        for begin, stop, path, key in self._pieces(kind, name, start, end):
            first, last = max(begin, start), min(stop, end)
            target[first - start : last - start].copy_(self._file(path).get_slice(key)[first - begin : last - begin])
            missing -= last - first
        if missing:
            raise RuntimeError(f"{missing} elements of {kind} of {name} are in none of the files")

    def buffers(self) -> dict[str, Tensor]:
        """The buffers by name, which rank 0 has written."""
        file = self._file(shard_file(self._folder, 0))
        return {key.removeprefix(_BUFFERS): file.get_tensor(key) for key in file.keys() if key.startswith(_BUFFERS)}  # noqa: SIM118 - no mapping

    def _pieces(self, kind: str, name: str, start: int, end: int) -> list[tuple[int, int, Path, str]]:
        """Those that have a part between two elements; further files are looked into until these are all there."""
        while True:
            found = [one for one in self._index[kind, name] if one[0] < end and one[1] > start]
            if not self._unread or sum(min(one[1], end) - max(one[0], start) for one in found) == end - start:
                return found
            self._take_in(self._unread.pop(0))

    def _take_in(self, path: Path) -> None:
        file = self._file(path)
        for key in file.keys():  # noqa: SIM118 - no mapping
            if not key.startswith(_BUFFERS):
                kind, start, name = key.split("/", 2)
                begin = int(start)
                self._index[kind, name].append((begin, begin + file.get_slice(key).get_shape()[0], path, key))

    def _file(self, path: Path) -> Any:
        if path not in self._files:
            if len(self._files) >= _OPEN_AT_ONCE:
                self._files.clear()
            self._files[path] = safe_open(path, "pt")
        return self._files[path]
