"""One rank's place among its group: accelerator, rendezvous, and the few collectives we call ourselves."""

from __future__ import annotations

import gc
import os
import socket
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from distft.common.errors import DistftError, UserError

_BACKLOG = 1024  # of ranks that come at once


def accelerator() -> torch.device:
    """The device that this process computes on: the first visible GPU, else the CPU."""
    if torch.cuda.is_available() and os.environ.get("DS_ACCELERATOR", "cuda") != "cpu":
        return torch.device("cuda", 0)
    return torch.device("cpu")


def release_accelerator() -> None:
    """Gives back what this process keeps of its accelerator's memory for its own later use, for others to have it."""
    gc.collect()
    torch.cuda.empty_cache()


def host_store(host: str) -> Any:
    """A key-value store on a free port of that address, for the other ranks to meet at. Keep the object.

    The port is taken before it is told, so none can be lost between choosing and using it; and on this address alone:
    the store asks nobody who they are, and by itself would listen on all of the machine's. Raises OSError.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, 0), family=family, backlog=_BACKLOG) as listener:
        port = listener.getsockname()[1]
        return dist.TCPStore(  # type: ignore[attr-defined]
            host, port, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=60),
            master_listen_fd=listener.detach(),
        )  # fmt: skip


def join(rank: int, world_size: int, store: Any, *, timeout_s: float) -> None:
    """Joins this process to its group's communicator. ``store`` is a TCPStore or ``(host, port)``.

    ``timeout_s`` bounds every collective: a dead or diverged peer raises instead of hanging.
    Roles that live in one process share the communicator of the first.
    """
    if dist.is_initialized():
        return
    os.environ.setdefault("LOCAL_RANK", "0")
    if accelerator().type == "cpu":
        os.environ["DS_ACCELERATOR"] = "cpu"
    import deepspeed
    import deepspeed.ops

    # It would ask a compiler what can be built, and on a CPU build an operator: 36 s, and a hang on a stale lock.
    deepspeed.ops.__compatible_ops__ = {}
    # DeepSpeed still calls these by their old names, at every collective of every step.
    warnings.filterwarnings("ignore", r"`torch\.distributed\.\w+_tensor` is deprecated", FutureWarning)
    timeout = timedelta(seconds=timeout_s)
    if isinstance(store, tuple):
        store = dist.TCPStore(store[0], store[1], is_master=False, timeout=timeout)  # type: ignore[attr-defined]
    backend = "gloo" if accelerator().type == "cpu" else "cpu:gloo,cuda:nccl"
    dist.init_process_group(backend, store=store, rank=rank, world_size=world_size, timeout=timeout)
    deepspeed.init_distributed(dist_init_required=False, timeout=timeout, verbose=False)


def leave() -> None:
    """Leaves the communicator, if there is one."""
    if dist.is_initialized():
        dist.destroy_process_group()


def reduce_scalars(values: list[float], operation: str = "sum") -> list[float]:
    """The element-wise sum, minimum or maximum of a list over all ranks, in float64."""
    tensor = torch.tensor(values, dtype=torch.float64)
    operations = {"sum": dist.ReduceOp.SUM, "min": dist.ReduceOp.MIN, "max": dist.ReduceOp.MAX}
    dist.all_reduce(tensor, operations[operation])
    return [float(value) for value in tensor]


def gather_rows(rows: torch.Tensor) -> torch.Tensor:
    """The rows of all ranks, rank by rank; each may have another number of them, 0 too (collective)."""
    counts = [int(count) for count in reduce_scalars(
        [float(len(rows)) if rank == dist.get_rank() else 0.0 for rank in range(dist.get_world_size())]
    )]  # fmt: skip
    padded = rows.new_zeros(max(counts), *rows.shape[1:])
    padded[: len(rows)] = rows
    found = [torch.empty_like(padded) for _ in counts]
    dist.all_gather(found, padded)
    return torch.cat([one[:count] for one, count in zip(found, counts, strict=True)])


def barrier() -> None:
    """Waits for all ranks of the group."""
    dist.barrier()


@contextmanager
def failing_together() -> Iterator[None]:
    """What raises in here on one rank raises on all of them (collective), so that none waits for another.

    All raise what the first failed rank raised, where that can travel; another failure is its cause. Under
    ``zero.Init`` only rank 0 reads the weights: where it fails, the others find in their shards what memory held.
    """
    failure: Exception | None = None
    try:
        yield
    except Exception as error:
        failure = error
    mine = failure if failure is None or isinstance(failure, UserError) else DistftError(repr(failure))
    failures: list[Exception | None] = [None] * dist.get_world_size()
    dist.all_gather_object(failures, mine)
    for rank, theirs in enumerate(failures):
        if theirs is None:
            continue
        if failure is not None and rank == dist.get_rank():
            raise failure
        if isinstance(theirs, UserError):
            raise theirs from failure
        raise DistftError(f"rank {rank} failed: {theirs}") from failure
