"""All weights of a model as files, a bucket at a time: written of one group, taken over by another.

The files do not know of ranks or shards, so that groups may have as many as they like. Every function here is
collective, and what fails on the first rank, which alone touches files, fails on all.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import deepspeed
import torch
import torch.distributed as dist
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from distft.common.files import sync_folder, write_synced
from distft.engine.engine import GATHER_BYTES, Engine
from distft.engine.process_group import failing_together

_NAMES = "names.json"  # the tensors of each file; written last


def write_weights(engine: Engine, folder: Path) -> None:
    """Into ``folder``, over what a former call wrote. Raises OSError for a disk that refuses them."""
    first, files = dist.get_rank() == 0, list[list[str]]()
    failure: Exception | None = None
    if first:
        folder.mkdir(parents=True, exist_ok=True)
    for bucket in _buckets(engine):
        if not first or failure is not None:  # the others wait for this rank's part of what is gathered
            continue
        try:
            save_file(bucket, _file(folder, len(files)))
            files.append(list(bucket))
        except (OSError, SafetensorError) as error:
            failure = OSError(f"{folder}: {error}")
    with failing_together():
        if failure is not None:
            raise failure
        if first:
            write_synced(folder / _NAMES, json.dumps(files))
            sync_folder(folder)


def take_weights(engine: Engine, folder: Path, share: float = 1.0) -> None:
    """``share`` of the weights that ``write_weights`` left and the rest of its own, formed in float32 and rounded once
    to the model's dtype. Raises ValueError where they are not of a model with these parameters, OSError.
    """
    first, files = dist.get_rank() == 0, list[list[str]]()
    with failing_together():
        if first:
            files = json.loads((folder / _NAMES).read_bytes())
            theirs = {name: shape for number in range(len(files)) for name, shape in _shapes(_file(folder, number))}
            own = {name: list(getattr(p, "ds_shape", p.shape)) for name, p in engine.module.named_parameters()}
            if theirs != own:
                raise ValueError(f"the weights in {folder} are not of a model with these parameters")
    told = [files]
    dist.broadcast_object_list(told, 0)
    for number, names in enumerate(told[0]):
        found: dict[str, Tensor] = {}
        with failing_together():
            if first:
                found = load_file(_file(folder, number))
        for name in names:
            _blend(engine.module.get_parameter(name), found.get(name), share)
    engine.rewritten()


def _blend(parameter: nn.Parameter, theirs: Tensor | None, share: float) -> None:
    sharded = hasattr(parameter, "ds_id")
    gathered = deepspeed.zero.GatheredParameters([parameter], modifier_rank=0) if sharded else nullcontext()
    with gathered, torch.no_grad():
        if theirs is not None:
            there = theirs.to(parameter.device)
            if share < 1:
                there = (1 - share) * parameter.data.float() + share * there.float()
            parameter.data.copy_(there)
        if not sharded:
            dist.broadcast(parameter.data, 0)


def _buckets(engine: Engine) -> Iterator[dict[str, Tensor]]:
    """On the host of the first rank; of the others, which only help to gather, nothing."""
    first, bucket, size = dist.get_rank() == 0, dict[str, Tensor](), 0
    for name, tensor in engine.full_tensors():
        if bucket and size + tensor.nbytes > GATHER_BYTES:
            yield bucket
            bucket, size = {}, 0
        size += tensor.nbytes
        if first:
            bucket[name] = tensor.to("cpu", copy=True).contiguous()
    yield bucket


def _shapes(path: Path) -> Iterator[tuple[str, list[int]]]:
    with safe_open(path, "pt") as file:
        for name in file.keys():  # noqa: SIM118 - it is no mapping
            yield name, list(file.get_slice(name).get_shape())


def _file(folder: Path, number: int) -> Path:
    return folder / f"weights-{number:05d}.safetensors"
