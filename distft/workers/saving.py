"""A rank's share of a checkpoint: written, and read again."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch

from distft.checkpoint.manifest import FileRecord, NotWritten, record_files
from distft.common.seeding import restore_rng_state, rng_state
from distft.engine import process_group
from distft.engine.engine import Engine


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


def _free_space(folder: Path) -> str:
    """What torch does not say of a full disk: how much is free."""
    try:
        return f" ({shutil.disk_usage(folder).free} bytes are free)"
    except OSError:
        return ""
