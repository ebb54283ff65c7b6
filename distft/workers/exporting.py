"""The result of a role, from its ranks to a plain Hugging Face folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from distft.engine import process_group
from distft.engine.engine import Engine
from distft.models.adapters.adapt import is_adapter
from distft.models.adapters.merging import plain_tensors
from distft.models.buffers import kept_buffers
from distft.models.export import export_adapter, export_model
from distft.models.families.family import find_family
from distft.models.reading_back import check_saved
from distft.rollout.weight_sync import PREFIX
from distft.workers.spec import RoleSpec


def require_readable(engine: Engine, spec: RoleSpec, path: str) -> None:
    """What ``export_result`` will write can be read again. Raises UserError."""
    module: Any = engine.module
    check_saved(_plain_model(spec, path) if spec.model.leaves_base else module.model, path)


def export_result(
    engine: Engine, spec: RoleSpec, rank: int, tokenizer: Any, path: str, folder: Path, stops: tuple[int, ...]
) -> None:
    """A plain Hugging Face folder, written by rank 0 from gathered weights (collective). ``path``: where it started.

    Adapters lie in its folder ``adapter`` by themselves; those beside weights are merged into it too, virtual tokens,
    which no weight computes as, are not.
    """
    module: Any = engine.module
    adapted = spec.model.leaves_base
    tensors = engine.full_tensors()
    if adapted and rank == 0:  # the others only help to gather
        tensors = plain_tensors(tensors, module)
    weights = {}
    for name, tensor in tensors:
        if rank == 0:
            weights[name.removeprefix(PREFIX)] = tensor.detach().to("cpu", copy=True)
    if rank == 0:
        buffers = kept_buffers(module.model).items()
        weights |= {name: buffer.detach().cpu() for name, buffer in buffers if not is_adapter(name)}
        model = _plain_model(spec, path) if adapted else module.model
        export_model(model, weights, tokenizer, folder, module.written, stops)
    if adapted:
        trained = {
            name.removeprefix(PREFIX): tensor.detach().to("cpu", copy=True)
            for name, tensor in engine.full_tensors(trained_only=True)
        }
        if rank == 0:
            export_adapter(
                module.model, trained, path, folder / "adapter", find_family(spec.family, spec.labels).peft_task
            )
    process_group.barrier()


def _plain_model(spec: RoleSpec, path: str) -> Any:
    """The architecture without adapters and quantization, and without weights."""
    return find_family(spec.family, spec.labels).empty(path, spec.model)
