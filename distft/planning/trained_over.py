"""Over which weights was a LoRA trained? Told from the finished model that it lies beside, which is their sum; without
torch, so that it is told before anything starts."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np

from distft.common.errors import UserError
from distft.common.files import parse_json
from distft.planning.lora_folder import LoraFolder
from distft.planning.model_folders import ADAPTER_WEIGHTS
from distft.planning.weight_files import COPY_AGAIN, weight_files

_WRAPPED: Final = "base_model.model."  # where a model lies in PEFT's
_A: Final = ".lora_A.weight"
_HEADER: Final = 8  # bytes that say how long it is
# Of each dtype: how NumPy reads it, the distance from 1 to the next number, the distance from 0.
_DTYPES: Final = {
    "F32": ("<f4", 2**-23, 2**-149), "F16": ("<f2", 2**-10, 2**-24), "BF16": ("<u2", 2**-7, 2**-133),
}  # fmt: skip


class _Weight(NamedTuple):
    numbers: np.ndarray[Any, np.dtype[np.float32]]
    eps: float
    least: float


def trained_over(adapter: LoraFolder, finished: Path, base: Path, where: str) -> bool | None:
    """Whether the weights in ``finished`` are those in ``base`` with the adapter added, but for rounding; None where
    the two call them otherwise, or have another dtype than these, so that it cannot be told.

    Of each kind of layer (``q_proj``, ...) that has adapters the first is compared. Raises UserError, which says
    ``where`` the model is named, for a file that cannot be read.
    """
    told: list[bool | None] = []
    try:
        learned = adapter.folder / ADAPTER_WEIGHTS
        names = sorted((name.removesuffix(_A) for name in _header(learned)[0] if name.endswith(_A)), reverse=True)
        for name in {name.rpartition(".")[2]: name for name in names}.values():
            layer = f"{name.removeprefix(_WRAPPED)}.weight"
            a, b = (_read(learned, f"{name}.lora_{part}.weight") for part in "AB")
            told.append(_is_sum(_weight(finished, layer), _weight(base, layer), a, b, adapter.lora.scale))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{adapter.folder.parent} cannot be read: {error}", where=where, hint=COPY_AGAIN) from error
    return None if None in told or not told else all(told)


def _header(path: Path) -> tuple[dict[str, Any], int]:
    """What a safetensors file says of each tensor, and where their bytes begin. Raises ValueError, OSError."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(_HEADER), "little")
        if length > path.stat().st_size:
            raise ValueError(f"{path} is no whole safetensors file")
        return dict(parse_json(file.read(length).decode())), _HEADER + length


def _read(path: Path, name: str) -> _Weight | None:
    header, begin = _header(path)
    said = header[name]
    if said["dtype"] not in _DTYPES:
        return None
    kind, eps, least = _DTYPES[said["dtype"]]
    first, end = said["data_offsets"]
    count = (end - first) // np.dtype(kind).itemsize
    numbers = np.fromfile(path, kind, count, offset=begin + first).reshape(said["shape"])
    if said["dtype"] == "BF16":  # the upper half of a float32
        return _Weight((numbers.astype("<u4") << 16).view("<f4"), eps, least)
    return _Weight(numbers.astype(np.float32), eps, least)


def _weight(folder: Path, wanted: str) -> _Weight | None:
    """That weight in a model's folder, where files may leave out the first part of its name."""
    for path in weight_files(folder):
        for name in _header(path)[0]:
            if f".{wanted}".endswith(f".{name}"):
                return _read(path, name)
    return None


def _is_sum(
    merged: _Weight | None, own: _Weight | None, a: _Weight | None, b: _Weight | None, scale: float
) -> bool | None:
    """Whether ``merged`` is ``own + scale * b a``, each of them rounded to the dtype of its file."""
    if merged is None or own is None or a is None or b is None:
        return None
    eps, least = (max(getattr(one, key) for one in (merged, own, a, b)) for key in ("eps", "least"))
    update = scale * (b.numbers @ a.numbers)
    sizes = scale * (np.abs(b.numbers) @ np.abs(a.numbers))
    for more, size in ((update, sizes), (update.T, sizes.T)):  # GPT-2 stores its weights [in, out]
        if more.shape == own.numbers.shape == merged.numbers.shape:
            rounded = 2 * eps * (np.abs(own.numbers) + size) + least
            if bool((np.abs(own.numbers + more - merged.numbers) <= rounded).all()):
                return True
    return False
