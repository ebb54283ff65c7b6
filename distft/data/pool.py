"""Processes that turn chunks of rows into files of record batches; or this one, where none are asked for."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from distft.data.arrow_files import appearing
from distft.data.chunks import Item, Task

_GIVE_WAY_S: Final = 1.0
_task: Task | None = None  # of a process of the pool


class Pool:
    """``num_workers`` processes, 0: none. At most two chunks for each are held in memory."""

    def __init__(self, task: Task, num_workers: int) -> None:
        self._task, self._most = task, 2 * num_workers
        self._running: set[Future[int]] = set()
        self._executor: ProcessPoolExecutor | None = None
        if num_workers:
            # spawn: a fork would copy the threads' locks of the process around it
            context = multiprocessing.get_context("spawn")
            self._executor = ProcessPoolExecutor(
                num_workers, mp_context=context, initializer=_begin, initargs=(task, os.getpid())
            )

    def submit(self, items: list[Item], format_name: str, path: Path) -> Iterator[int]:
        """Takes a chunk as soon as there is room; answers the rows of each chunk that is done, 0 to give way."""
        if self._executor is None:
            yield _write(self._task, items, format_name, path)
            return
        while len(self._running) >= self._most:
            yield from self._done()
        self._running.add(self._executor.submit(_in_process, items, format_name, path))

    def finish(self) -> Iterator[int]:
        """The same for what is still running."""
        while self._running:
            yield from self._done()

    def _done(self) -> Iterator[int]:
        done, self._running = wait(self._running, _GIVE_WAY_S, return_when=FIRST_COMPLETED)
        yield sum(future.result() for future in done)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:  # fmt: skip
        if self._executor is not None:
            self._executor.shutdown(cancel_futures=True)


def _begin(task: Task, parent: int) -> None:
    """A process of the pool starts: it ends with its parent, which may be killed without a word."""
    global _task
    _task = task

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_GIVE_WAY_S)
        os._exit(1)

    threading.Thread(target=watch, name="parent", daemon=True).start()


def _in_process(items: list[Item], format_name: str, path: Path) -> int:
    assert _task is not None
    return _write(_task, items, format_name, path)


def _write(task: Task, items: list[Item], format_name: str, path: Path) -> int:
    batch = task.batch(items, format_name)
    with appearing(path) as writer:
        writer.write_batch(batch)
    return len(items)
