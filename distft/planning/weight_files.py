"""What a model folder's safetensors files hold, read from their headers alone.

A header is 8 bytes of little-endian length and that many bytes of JSON, tensor name to dtype and shape
(https://github.com/huggingface/safetensors#format); no weight is read.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from distft.common.errors import UserError

MAX_HEADER_BYTES = 100_000_000
INDEX = "model.safetensors.index.json"
COPY_AGAIN = "copy the model's files again"


def weight_files(folder: Path) -> list[Path]:
    """The folder's safetensors files: those that its index names, else all. Raises UserError for missing shards."""
    index = folder / INDEX
    if not index.is_file():
        return sorted(folder.glob("*.safetensors"))
    try:
        shards = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise UserError(f"is no index of safetensors shards: {error}", where=str(index), hint=COPY_AGAIN) from error
    missing = [shard for shard in shards if not (folder / shard).is_file()]
    if missing:
        what = f"names {missing[0]}, which is not there ({len(missing)} of {len(shards)} missing)"
        raise UserError(what, where=str(index), hint=COPY_AGAIN)
    return [folder / shard for shard in shards]


def tensor_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Name to shape of every tensor in the folder; empty when it has no safetensors file.

    Raises UserError for a torn file: one whose header does not parse or which is shorter than it says.
    """
    return {name: shape for path in weight_files(folder) for name, shape in _header(path).items()}


def _header(path: Path) -> dict[str, tuple[int, ...]]:
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 0 < length <= MAX_HEADER_BYTES:
                raise ValueError(f"a header of {length} bytes")
            header: dict[str, Any] = json.loads(file.read(length))
        tensors = {name: entry for name, entry in header.items() if name != "__metadata__"}
        end = max((int(entry["data_offsets"][1]) for entry in tensors.values()), default=0)
        if path.stat().st_size < 8 + length + end:
            raise ValueError(f"{path.stat().st_size} bytes, its header promises {8 + length + end}")
        return {name: tuple(entry["shape"]) for name, entry in tensors.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"is no whole safetensors file: {error}", where=str(path), hint=COPY_AGAIN) from error
