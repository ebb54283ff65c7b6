"""Ranks for tests: processes that stay, joined in one communicator, and run any function sent to them.

A process takes seconds to import deepspeed, so one group serves many checks.
"""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing

SECONDS = 240


class Group:
    """``world_size`` processes with ranks 0, 1, ... ; use as a context manager. ``joined``: in one communicator."""

    def __init__(self, world_size: int, *, joined: bool = True) -> None:
        self._store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        context = multiprocessing.get_context("spawn")
        self._pipes = []
        self._processes = []
        for rank in range(world_size):
            ours, theirs = context.Pipe()
            port = self._store.port if joined else None
            process = context.Process(target=_serve, args=(theirs, rank, world_size, port), daemon=True)
            process.start()
            self._pipes.append(ours)
            self._processes.append(process)

    def __enter__(self) -> Group:
        return self

    def __exit__(self, *_: object) -> None:
        for pipe in self._pipes:
            pipe.close()
        for process in self._processes:
            process.join(timeout=10)
            if process.is_alive():
                process.kill()

    def kill(self) -> None:
        """Ends the processes at once."""
        for process in self._processes:
            process.kill()

    def call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> list[Any]:
        """What ``function(rank, world_size, *args, **kwargs)`` returns on each rank; raises the first failure."""
        for pipe in self._pipes:
            pipe.send((function, args, kwargs))
        answers = []
        for rank, pipe in enumerate(self._pipes):
            if not pipe.poll(SECONDS):
                raise TimeoutError(f"rank {rank} of {len(self._pipes)} does not answer {function.__name__}")
            answers.append(pipe.recv())
        for rank, (failed, value) in enumerate(answers):
            if failed:
                raise AssertionError(f"rank {rank} of {len(self._pipes)}:\n{value}")
        return [value for _, value in answers]


def _serve(pipe: Any, rank: int, world_size: int, port: int | None) -> None:
    os.environ["DS_ACCELERATOR"] = "cpu"
    torch.set_num_threads(1)
    from distft.engine import process_group

    if port is not None:
        process_group.join(rank, world_size, ("127.0.0.1", port), timeout_s=SECONDS)
    while True:
        try:
            function, args, kwargs = pipe.recv()
        except EOFError:
            break
        try:
            answer = (False, function(rank, world_size, *args, **kwargs))
        except BaseException:
            answer = (True, traceback.format_exc())
        pipe.send(answer)
    process_group.leave()
