"""Weights that hold NaN or infinity: whatever is computed with them is NaN too, and what is trained from them is lost.

A run that diverged writes such files, and so does a conversion to float16 of weights that are too large for it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any, Final

import torch
import torch.distributed as dist
from safetensors import safe_open
from torch import Tensor, nn

from distft.common.errors import UserError
from distft.planning.weight_files import weight_files

# A dry run reads files of up to so many bytes through; larger ones would take it minutes.
READ_THROUGH: Final = 4 * 2**30
_DTYPES: Final = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def require_finite(model: nn.Module, path: str, but: Collection[str] = ()) -> None:
    """The weights that were loaded from ``path`` (all ``but`` those), of a sharded model this rank's share, are
    numbers. Raises UserError on the ranks that hold others.
    """
    loaded = ((name, one) for name, one in model.named_parameters() if name not in but)
    _require(((name, _share(parameter)) for name, parameter in loaded), path)


def require_finite_files(folder: Path) -> None:
    """The same of the safetensors files of a folder before they are loaded, unless they are too large for it."""
    files = weight_files(folder)
    if sum(path.stat().st_size for path in files) <= READ_THROUGH:
        _require(_tensors(files), str(folder))


def _require(tensors: Iterable[tuple[str, Tensor]], path: str) -> None:
    found = {
        name: torch.stack(torch.aminmax(tensor.detach())).isfinite().all()
        for name, tensor in tensors
        if tensor.dtype in _DTYPES and tensor.numel()
    }
    wrong = [name for name, finite in found.items() if not finite]
    if wrong:
        more = f" and {len(wrong) - 1} more of {len(found)} tensors" if len(wrong) > 1 else ""
        raise UserError(
            f"its weights are not numbers: {wrong[0]}{more} {'hold' if more else 'holds'} NaN or infinity",
            where=path,
            hint="a run that diverged leaves such weights: take an earlier checkpoint of it, or copy the model again",
        )


def _share(parameter: nn.Parameter) -> Tensor:
    """What lies on this rank; the last shard's padding was never written, and may hold anything."""
    shard: Any = getattr(parameter, "ds_tensor", None)
    if shard is None:
        return parameter
    whole: Any = parameter
    start = dist.get_rank() * shard.numel()
    return torch.as_tensor(shard).narrow(0, 0, max(0, min(shard.numel(), whole.ds_numel - start)))


def _tensors(files: Iterable[Path]) -> Iterator[tuple[str, Tensor]]:
    for path in files:
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118
                yield name, file.get_tensor(name)
