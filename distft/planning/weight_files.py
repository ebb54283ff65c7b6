"""What a model folder's safetensors files hold, read from their headers alone: no weight is read."""

from __future__ import annotations

from pathlib import Path

from distft.common.errors import UserError
from distft.common.files import parse_json

INDEX = "model.safetensors.index.json"
COPY_AGAIN = "copy the model's files again"


def weight_files(folder: Path) -> list[Path]:
    """The folder's safetensors files: those that its index names, else all. Raises UserError for missing shards."""
    index = folder / INDEX
    if not index.is_file():
        return sorted(folder.glob("*.safetensors"))
    try:
        shards = sorted(set(parse_json(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise UserError(f"is no index of safetensors shards: {error}", where=str(index), hint=COPY_AGAIN) from error
    missing = [shard for shard in shards if not (folder / shard).is_file()]
    if missing:
        what = f"names {missing[0]}, which is not there ({len(missing)} of {len(shards)} missing)"
        raise UserError(what, where=str(index), hint=COPY_AGAIN)
    return [folder / shard for shard in shards]


def tensor_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Name to shape of every tensor in the folder; empty when it has no safetensors file.

    Raises UserError for a torn file: one whose header does not parse, or that has not the length that it says.
    """
    return {name: shape for path in weight_files(folder) for name, shape in _shapes(path).items()}


def _shapes(path: Path) -> dict[str, tuple[int, ...]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except (OSError, SafetensorError) as error:
        raise UserError(f"is no whole safetensors file: {error}", where=str(path), hint=COPY_AGAIN) from error
