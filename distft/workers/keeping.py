"""What a rank keeps of a run: its share of a checkpoint, and the result as a plain Hugging Face folder."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch

from distft.checkpoint.manifest import FileRecord, NotWritten, record_files
from distft.common.seeding import restore_rng_state, rng_state
from distft.engine import process_group
from distft.engine.engine import Engine
from distft.models.adapters import plain_tensors
from distft.models.buffers import kept_buffers
from distft.models.export import export_adapter, export_model
from distft.models.load import empty_causal, empty_scalar
from distft.models.reading_back import check_saved
from distft.rollout.weight_sync import PREFIX
from distft.workers.spec import RoleSpec


def save_share(engine: Engine, role: str, rank: int, world_size: int, staging: Path) -> list[FileRecord | NotWritten]:
    """This rank's share of a checkpoint, under ``staging/<role>``: synced, hashed and reported (collective).

    A disk that refuses it is reported too, as NotWritten: the run goes on with the checkpoint before.
    """
    target = staging / role
    try:
        engine.save(target)
        torch.save(rng_state(), target / f"rng_{rank}.pt")
        failure = ""
    except (OSError, RuntimeError) as error:  # torch reports a full disk as RuntimeError
        failure = f"{role} rank {rank}: {error}{_free_space(staging)}"
    process_group.barrier()
    if failure:
        return [NotWritten(failure)]
    names = sorted(path.relative_to(staging).as_posix() for path in target.rglob("*") if path.is_file())
    shared = [name for name in names if not name.startswith(f"{role}/rng_")]
    mine = [*shared[rank::world_size], f"{role}/rng_{rank}.pt"]
    try:
        return [*record_files(staging, mine)]
    except OSError as error:
        return [NotWritten(f"{role} rank {rank}: {error}")]


def load_share(engine: Engine, role: str, rank: int, checkpoint: Path) -> None:
    """What ``save_share`` wrote, on the same number of ranks."""
    engine.load(checkpoint / role)
    restore_rng_state(torch.load(checkpoint / role / f"rng_{rank}.pt", weights_only=True))


def require_readable(engine: Engine, spec: RoleSpec, path: str) -> None:
    """What ``export_result`` will write can be read again. Raises UserError."""
    module: Any = engine.module
    check_saved(_plain_model(spec, path) if spec.model.peft is not None else module.model, path)


def export_result(
    engine: Engine, spec: RoleSpec, rank: int, tokenizer: Any, path: str, folder: Path, stops: tuple[int, ...]
) -> None:
    """A plain Hugging Face folder, written by rank 0 from gathered weights (collective). ``path``: where it started.

    Adapters are merged into it, and lie in its folder ``adapter`` by themselves too.
    """
    module: Any = engine.module
    adapted = spec.model.peft is not None
    tensors = engine.full_tensors()
    if adapted and rank == 0:  # the others only help to gather
        tensors = plain_tensors(tensors, module)
    weights = {}
    for name, tensor in tensors:
        if rank == 0:
            weights[name.removeprefix(PREFIX)] = tensor.detach().to("cpu", copy=True)
    if rank == 0:
        weights |= {name: buffer.detach().cpu() for name, buffer in kept_buffers(module.model).items()}
        model = _plain_model(spec, path) if adapted else module.model
        export_model(model, weights, tokenizer, folder, module.written, stops)
    if adapted:
        trained = {
            name.removeprefix(PREFIX): tensor.detach().to("cpu", copy=True)
            for name, tensor in engine.full_tensors(trained_only=True)
        }
        if rank == 0:
            export_adapter(module.model, trained, path, folder / "adapter")
    process_group.barrier()


def _plain_model(spec: RoleSpec, path: str) -> Any:
    """The architecture without adapters and quantization, and without weights."""
    build = empty_causal if spec.head == "causal" else empty_scalar
    return build(path, spec.model)


def _free_space(folder: Path) -> str:
    """What torch does not say of a full disk: how much is free."""
    try:
        return f" ({shutil.disk_usage(folder).free} bytes are free)"
    except OSError:
        return ""
