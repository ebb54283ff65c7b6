"""All-reduce and all-gather over all nodes: are the sums right, and how fast is it? Run as a program, once a rank.

    python -m distft.doctor.collectives FOLDER RANK WORLD LOCAL_RANK ADDRESS gloo|nccl

Ranks find each other through a file in FOLDER, which all of them see. Prints one line of JSON. Torch only.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import torch
import torch.distributed as dist

from distft.engine.process_group import host_store

_MEET_S = 90.0
_ELEMENTS = {"gloo": 4 * 2**20, "nccl": 64 * 2**20}  # float32
_ROUNDS = 5
_MODULUS = 251  # small whole numbers: their sums are exact in float32


def measure(folder: Path, rank: int, world: int, local_rank: int, address: str, backend: str) -> dict[str, Any]:
    """Bandwidths in bytes/s as the link sees them (bus bandwidth): all-reduce moves 2 (n-1)/n of the tensor through
    every rank, all-gather (n-1)/n of the result. ``right``: every element of both results was what it must be.
    """
    device = torch.device("cuda", local_rank) if backend == "nccl" else torch.device("cpu")
    if backend == "nccl":
        torch.cuda.set_device(device)
    else:
        _use_interface(address)
    store = _meet(folder, rank, world, address)
    limit = datetime.timedelta(seconds=_MEET_S)
    options = {"device_id": device} if backend == "nccl" else {}
    dist.init_process_group(backend, store=store, rank=rank, world_size=world, timeout=limit, **options)  # type: ignore[arg-type]
    try:
        return _measured(rank, world, device, _ELEMENTS[backend])
    finally:
        dist.destroy_process_group()


def _measured(rank: int, world: int, device: torch.device, elements: int) -> dict[str, Any]:
    base = torch.arange(elements, device=device).remainder(_MODULUS).to(torch.float32)
    mine, size = base + rank, elements * 4
    total = mine.clone()
    dist.all_reduce(total)
    right = bool((total == base * world + sum(range(world))).all())
    part = base[: elements // world] + rank
    gathered = torch.empty(part.numel() * world, device=device)
    dist.all_gather_into_tensor(gathered, part)
    for other, rows in enumerate(gathered.view(world, -1)):
        right = right and bool((rows == base[: part.numel()] + other).all())

    def seconds(call: Any) -> float:
        _wait(device)
        start = time.perf_counter()
        for _ in range(_ROUNDS):
            call()
        _wait(device)
        return (time.perf_counter() - start) / _ROUNDS

    reduce_s = seconds(lambda: dist.all_reduce(total))
    gather_s = seconds(lambda: dist.all_gather_into_tensor(gathered, part))
    share = (world - 1) / world
    return {
        "rank": rank,
        "right": right,
        "all_reduce": 2 * share * size / reduce_s,
        "all_gather": share * gathered.numel() * 4 / gather_s,
    }


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    dist.barrier()


def _meet(folder: Path, rank: int, world: int, address: str) -> Any:
    """The store of rank 0, whose address the others read from a file. Raises TimeoutError."""
    file, until = folder / "store", time.monotonic() + _MEET_S
    limit = datetime.timedelta(seconds=_MEET_S)
    if rank == 0:
        store = host_store(address)
        draft = folder / "store.tmp"
        draft.write_text(f"{address} {store.port}")
        draft.rename(file)
        return store
    while True:
        with contextlib.suppress(OSError, ValueError):
            host, port = file.read_text().split()
            return dist.TCPStore(host, int(port), world, False, limit)  # type: ignore[attr-defined]
        if time.monotonic() > until:
            raise TimeoutError(f"rank 0 has not said within {_MEET_S:g} s where it listens")
        time.sleep(0.1)


def _use_interface(address: str) -> None:
    """Gloo guesses its address by a route to the world or by the host's name; here it is known."""
    if "GLOO_SOCKET_IFNAME" not in os.environ:
        for name, found in psutil.net_if_addrs().items():
            if any(each.address == address for each in found):
                os.environ["GLOO_SOCKET_IFNAME"] = name


def main() -> None:
    """One rank."""
    folder, rank, world, local_rank, address, backend = sys.argv[1:]
    print(json.dumps(measure(Path(folder), int(rank), int(world), int(local_rank), address, backend)), flush=True)


if __name__ == "__main__":
    main()
