"""A rank's share of a checkpoint: written, and read again."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch

from distft.checkpoint.manifest import FileRecord, NotWritten, record_files
from distft.common.errors import DistftError
from distft.common.seeding import restore_rng_state, rng_state
from distft.engine.engine import Engine
from distft.engine.shards import shard_file
from distft.engine.whole_weights import take_weights, write_weights


def save_share(engine: Engine, role: str, rank: int, staging: Path) -> list[FileRecord | NotWritten]:
    """This rank's share of a checkpoint, under ``staging/<role>``: synced, hashed and reported. Of a frozen model,
    which is kept where it does not stay as it started, the weights (collective).

    A disk that refuses it is reported too, as NotWritten: the run goes on with the checkpoint before.
    """
    target = staging / role
    rng = rng_file(target, rank)
    try:
        if engine.trained:
            engine.save(target)
            torch.save(rng_state(), rng)
            mine = [shard_file(target, rank), rng]
        else:
            write_weights(engine, target)
            mine = sorted(target.iterdir()) if rank == 0 else []
        return [*record_files(staging, [path.relative_to(staging).as_posix() for path in mine])]
    except (OSError, RuntimeError, DistftError) as error:  # torch reports a full disk as RuntimeError
        return [NotWritten(f"{role} rank {rank}: {error}{_free_space(staging)}")]


def load_share(engine: Engine, role: str, rank: int, checkpoint: Path) -> None:
    """What the ranks of any layout saved. A rank more than they were keeps the random numbers that it was born with."""
    if not engine.trained:
        take_weights(engine, checkpoint / role)
        return
    engine.load(checkpoint / role)
    rng = rng_file(checkpoint / role, rank)
    if rng.is_file():
        restore_rng_state(torch.load(rng, weights_only=True))


def rng_file(folder: Path, rank: int) -> Path:
    """Where a rank's random number generators stand."""
    return folder / f"rng_{rank}.pt"


def _free_space(folder: Path) -> str:
    """What torch does not say of a full disk: how much is free."""
    try:
        return f" ({shutil.disk_usage(folder).free} bytes are free)"
    except OSError:
        return ""
