"""A rank's share of a checkpoint: written, at once or while training goes on, and read again."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import torch

from distft.checkpoint.manifest import FileRecord, NotWritten, record_files
from distft.common.errors import DistftError
from distft.common.seeding import restore_rng_state, rng_state
from distft.engine.diverged import NonFiniteWeights
from distft.engine.engine import Engine
from distft.engine.shards import Shard, shard_file
from distft.engine.whole_weights import take_weights, write_weights
from distft.models.unreadable import first_line
from distft.workers.reports import Saved

Files = list[FileRecord | NotWritten]
REFUSALS = (OSError, RuntimeError, DistftError)  # torch reports a full disk as RuntimeError


def save_share(engine: Engine, role: str, rank: int, staging: Path) -> list[FileRecord | NotWritten]:
    """This rank's share of a checkpoint, under ``staging/<role>``: synced, hashed and reported. Of a frozen model,
    which is kept where it does not stay as it started, the weights (collective).

    A disk that refuses it, and weights that are NaN or infinite, are reported too, as NotWritten: the run goes on with
    the checkpoint before.
    """
    try:
        return _recorded(staging, _writer(engine, role, rank, staging, engine.states)())
    except REFUSALS as error:
        return [_not_written(role, rank, staging, error)]


def copy_share(engine: Engine, role: str, rank: int, folder: Path) -> tuple[str, ...] | NotWritten:
    """The files of ``save_share`` in a folder in memory, neither synced nor hashed: their paths below it."""
    if not folder.parent.is_dir():  # what was made in its place nobody would remove
        return NotWritten(f"{role} rank {rank}: who keeps {folder.parent} has ended")
    try:
        paths = _writer(engine, role, rank, folder, engine.states)()
    except REFUSALS as error:
        return _not_written(role, rank, folder, error)
    return tuple(path.relative_to(folder).as_posix() for path in paths)


class BackgroundSave:
    """The share that a thread of this rank writes while training goes on; one at a time."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._begun: Future[Saved] | None = None

    def begin(self, engine: Engine, role: str, rank: int, staging: Path) -> None:
        """The files of ``save_share`` as of now. Of a frozen model they are written before this returns (collective).

        Raises ValueError where the one before is still being written.
        """
        if not self.ended:
            raise ValueError("the checkpoint before is still being written")
        try:
            write = _writer(engine, role, rank, staging, engine.snapshot)
        except MemoryError as error:
            what = f"no host memory for the copy ({first_line(error)}); checkpoint.asynchronous=false needs none"
            self._refuse(NotWritten(f"{role} rank {rank}: {what}"))
        except REFUSALS as error:
            self._refuse(_not_written(role, rank, staging, error))
        else:
            self._begun = self._thread.submit(_timed, write, role, rank, staging)

    def _refuse(self, why: NotWritten) -> None:
        self._begun = self._thread.submit(Saved, (why,), 0.0)

    @property
    def ended(self) -> bool:
        """Whether nothing is being written."""
        return self._begun is None or self._begun.done()

    def result(self) -> Saved:
        """What became of the last that was begun; waits for it. Raises ValueError where there was none."""
        if self._begun is None:
            raise ValueError("no checkpoint was begun")
        return self._begun.result()


def _recorded(staging: Path, paths: Sequence[Path]) -> Files:
    return [*record_files(staging, [path.relative_to(staging).as_posix() for path in paths])]


def _writer(
    engine: Engine, role: str, rank: int, staging: Path, states: Callable[[], Shard]
) -> Callable[[], list[Path]]:
    """What writes the files, from what ``states`` answers now, and returns where they are."""
    target = staging / role
    if not engine.trained:
        write_weights(engine, target)
        written = sorted(target.iterdir()) if rank == 0 else []
        return lambda: written
    shard, rng = states(), rng_state()

    def write() -> list[Path]:
        paths = [shard_file(target, rank), rng_file(target, rank)]
        shard.write(paths[0])
        torch.save(rng, paths[1])
        return paths

    return write


def _timed(write: Callable[[], list[Path]], role: str, rank: int, staging: Path) -> Saved:
    started = time.perf_counter()
    try:
        files = _recorded(staging, write())
    except REFUSALS as error:
        files = [_not_written(role, rank, staging, error)]
    return Saved(tuple(files), time.perf_counter() - started)


def _not_written(role: str, rank: int, staging: Path, error: Exception) -> NotWritten:
    free = "" if isinstance(error, NonFiniteWeights) else _free_space(staging)
    return NotWritten(f"{role} rank {rank}: {error}{free}")


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
