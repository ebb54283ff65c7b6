"""The tokenised rows of sources on disk: written once, by whoever comes first, and mapped into memory ever after.

::

    STORE/contents.json                   hashes of files, so that an unchanged file is read once only
    STORE/<key>/rows.arrow                the rows of one source: whole, as it appears by a rename
    STORE/<key>/chunk-000012.arrow        while they are tokenised: what is done, also after a kill
    STORE/<key>/lease.json                who tokenises now, with a heartbeat

What no run has used for ``KEPT_S`` goes when other rows are added. Whoever finds another at work waits for it, as
long as that one gets on. The lease saves work and nothing else: every file is a function of the key, appears by a
rename, and may be written twice.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import shutil
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pyarrow as pa  # type: ignore[import-untyped]

from distft.checkpoint.lease import Lease, acquire, living
from distft.common.errors import UserError
from distft.data.arrow_files import appearing
from distft.data.bad_rows import BadRow, OnBadRow
from distft.data.chunks import Item, Task, chunked
from distft.data.formats import Row
from distft.data.pool import Pool
from distft.data.stored_rows import StoredRows
from distft.tracking.progress import duration

ROWS: Final = "rows.arrow"
BESIDE: Final = ".distft-rows"
# Another writer that adds no chunk for so long, alive or not, is not waited for any more.
PATIENCE_S: Final = 300.0
_LOOK_S: Final = 0.5
# Another tokenizer, limit or release makes other rows, and the former ones would lie there for good.
KEPT_S: Final = 30 * 24 * 3600.0
_KEY: Final = re.compile(r"[0-9a-f]{32}")
log = logging.getLogger(__name__)


def store_folder(cache_dir: str | None, output_dir: str) -> Path:
    """Where the store lies: ``data.cache_dir``, else beside the run folder, so that runs in one place share it; in the
    run folder where the place beside it cannot be written."""
    if cache_dir is not None:
        return Path(cache_dir).absolute()
    run_dir = Path(output_dir).absolute()
    beside = run_dir.parent / BESIDE
    return beside if os.access(beside if beside.is_dir() else run_dir.parent, os.W_OK) else run_dir / BESIDE


def stored(folder: Path) -> StoredRows | None:
    """The rows of a source's folder, which are used now; None where they are not there yet, or not whole."""
    path = folder / ROWS
    try:
        found = StoredRows(path) if path.is_file() else None
        if found is not None:
            with contextlib.suppress(OSError):  # in a store that may only be read
                os.utime(path)
        return found
    except (pa.ArrowInvalid, OSError) as error:
        log.warning("%s is damaged and made anew: %s", path, error)
        path.unlink(missing_ok=True)
        return None


@dataclass(frozen=True)
class Reading:
    """How a source is read. ``rows`` is given what it calls with a bad row; ``format_of`` a row to find the source's
    format by; ``check`` raises where the rows read so far are not those that the folder is named for. ``name`` of the
    source and ``num_rows``, about, are for what is said."""

    name: str
    rows: Callable[[OnBadRow], Iterator[Row]]
    format_of: Callable[[Row], str]
    check: Callable[[], None]
    num_rows: int | None


def store_rows(
    folder: Path, reading: Reading, task: Task, *, patience_s: float = PATIENCE_S
) -> Generator[str, None, StoredRows]:
    """The rows of a source, tokenised unless they were before; gives way every few seconds, saying how far it is.

    UserError: what reading and encoding rows can raise; a folder that cannot be written.
    """
    _make(folder)
    lease = yield from _claim(folder, reading.name, patience_s)
    try:
        found = stored(folder)
        if found is None:
            num_chunks = yield from _write_chunks(folder, reading, task)
            yield from _join_chunks(folder, num_chunks, reading.name)
            found = stored(folder)
            forget_unused(folder.parent)
        if found is None:
            raise OSError(f"{folder / ROWS} was written and cannot be read")
    finally:
        if lease is not None:
            lease.release()
    return found


def forget_unused(store: Path) -> None:
    """Removes the rows that no run has used, or gone on to tokenise, for ``KEPT_S``."""
    for folder in store.iterdir():
        if not _KEY.fullmatch(folder.name) or living(folder) is not None:
            continue
        with contextlib.suppress(OSError):  # somebody else's, or gone already
            if time.time() - max(path.stat().st_mtime for path in (folder, *folder.iterdir())) > KEPT_S:
                shutil.rmtree(folder)
                log.info("%s was not used for %.0f days and is gone", folder, KEPT_S / 86400)


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(13, "Permission denied")
    except OSError as error:
        raise _unwritable(folder, error) from error


def _claim(folder: Path, name: str, patience_s: float) -> Generator[str, None, Lease | None]:
    """The right to write; None where it is not needed any more, or whoever has it does not get on."""
    seen, since = -1, time.monotonic()
    while not (folder / ROWS).is_file():
        held = living(folder)
        if held is None:
            try:
                return acquire(folder)
            except UserError as error:
                if living(folder) is None:
                    raise _unwritable(folder, error) from error
                continue  # somebody was quicker
        done = sum(1 for _ in folder.glob("chunk-*.arrow"))
        if done != seen:
            seen, since = done, time.monotonic()
        if time.monotonic() - since > patience_s:
            log.warning("%s: %s has added nothing for %.0f s; going on without it", name, held.owner, patience_s)
            return None
        yield f"waiting for {name}: {held.owner or 'another process'} tokenises it, {done} chunks are done"
        time.sleep(_LOOK_S)
    return None


def _write_chunks(folder: Path, reading: Reading, task: Task) -> Generator[str, None, int]:
    """All chunks that are not there yet; their number."""
    pace, format_name, number = _Pace(reading.name, reading.num_rows), "", -1
    with Pool(task, task.data.num_workers) as pool:
        for number, chunk in enumerate(chunked(reading.rows)):
            reading.check()
            format_name = format_name or _format_of(chunk, reading.format_of)
            path = _chunk(folder, number)
            if path.is_file():
                pace.passed(len(chunk))
            else:
                yield from _said(pool.submit(chunk, format_name, path), pace)
            yield str(pace)
        yield from _said(pool.finish(), pace)
    return number + 1


def _format_of(chunk: list[Item], format_of: Callable[[Row], str]) -> str:
    """The format of a source by the first of its rows that has one; those before it are bad."""
    for place, item in enumerate(chunk):
        if isinstance(item, Row):
            try:
                return format_of(item)
            except BadRow as bad:
                chunk[place] = bad
    return ""


def _said(results: Iterator[int], pace: _Pace) -> Iterator[str]:
    for num_rows in results:
        pace.done(num_rows)
        yield str(pace)


def _join_chunks(folder: Path, num_chunks: int, name: str) -> Iterator[str]:
    """One file of all chunks, which then go."""
    chunks = [_chunk(folder, number) for number in range(num_chunks)]
    try:
        with appearing(folder / ROWS) as writer:
            for number, path in enumerate(chunks):
                with pa.memory_map(str(path)) as file, pa.ipc.open_file(file) as reader:
                    for place in range(reader.num_record_batches):
                        writer.write_batch(reader.get_batch(place))
                yield f"joining the chunks of {name}: {number + 1} of {num_chunks}"
    except FileNotFoundError:
        if not (folder / ROWS).is_file():  # else another writer was quicker, and has cleared up
            raise
    for path in chunks:
        path.unlink(missing_ok=True)


def _chunk(folder: Path, number: int) -> Path:
    return folder / f"chunk-{number:06d}.arrow"


def _unwritable(folder: Path, error: Exception) -> UserError:
    return UserError(
        f"the tokenised rows cannot be written: {error}", where=str(folder),
        hint="give a folder that all nodes see: data.cache_dir=FOLDER",
    )  # fmt: skip


class _Pace:
    """How far the rows of a source are, and how long the rest will take."""

    def __init__(self, name: str, num_rows: int | None) -> None:
        self._name, self._of, self._started = name, num_rows, time.monotonic()
        self._done = self._passed = 0

    def done(self, num_rows: int) -> None:
        """So many rows more are tokenised."""
        self._done += num_rows

    def passed(self, num_rows: int) -> None:
        """So many rows more were tokenised by a former start."""
        self._passed += num_rows

    def __str__(self) -> str:
        through = self._done + self._passed
        of = f" of about {self._of:,}" if self._of else ""
        text = f"tokenising {self._name}: {through:,}{of} rows"
        speed = self._done / max(1e-6, time.monotonic() - self._started)
        if self._done and speed:
            text += f", {speed:,.0f} rows/s"
            if self._of and self._of > through:
                text += f", {duration((self._of - through) / speed)} left"
        return text
