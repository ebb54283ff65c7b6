"""Weights that are cut among the ranks one by one as they are read, so that no rank ever holds a whole model.

Weights in full precision are made in their shards (``zero.Init``). Of quantized ones it takes the whole tensor to work
out its fewer bits: transformers reads and quantizes tensor by tensor and gives each to its module, and there it is cut
before the next is read.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import deepspeed
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from distft.common.errors import EnvironmentFallsShort

_READ = "_is_hf_initialized"  # transformers' mark of a value that comes from a file


@contextmanager
def cut_as_loaded(settings: dict[str, Any], dtype: torch.dtype) -> Iterator[list[tuple[str, torch.Tensor]]]:
    """While open, a parameter that is given to a module with values becomes this rank's shard of it. Not collective:
    every rank reads all tensors, and where one of them cannot the others need not wait for it.

    Gives what each tensor that came from a file is called in its module, with the sum of its bytes: see
    ``require_alike``.
    """
    sharded = deepspeed.zero.Init(module=nn.Module(), config_dict_or_path=settings, dtype=dtype)
    sums: list[tuple[str, torch.Tensor]] = []

    def cut(_: nn.Module, name: str, parameter: Any) -> None:
        if parameter is None or parameter.is_meta or hasattr(parameter, "ds_id"):
            return
        parameter.data = parameter.data.to(sharded.local_device)
        if hasattr(parameter, _READ):
            flat = parameter.data.reshape(-1).view(torch.uint8)
            sums.append((name, flat.sum(dtype=torch.int64)))
        sharded._convert_to_deepspeed_param(parameter)
        parameter.partition()

    handle = register_module_parameter_registration_hook(cut)
    try:
        yield sums
    finally:
        handle.remove()


def require_alike(sums: list[tuple[str, torch.Tensor]]) -> None:
    """All ranks have read the same (collective): shards of different files would make a model that nobody has trained.
    Raises EnvironmentFallsShort on every rank."""
    mine = [(name, int(total)) for name, total in sums]
    every: list[list[tuple[str, int]]] = [mine] * dist.get_world_size()
    dist.all_gather_object(every, mine)
    for rank, theirs in enumerate(every):
        if theirs != every[0]:
            raise EnvironmentFallsShort(
                f"rank {rank} has read other weights than rank 0", hint="copy the same model to every node"
            )
