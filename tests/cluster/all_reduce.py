"""A driver on a node of a Ray cluster: four ranks on two nodes add up over gloo; prints what came of it as JSON.

Ray and gloo are told the node's address and interface: the nodes have no default route to guess them from.
"""

from __future__ import annotations

import json
import os
from datetime import timedelta
from typing import Any

import ray
import torch
from torch import distributed
from torch.distributed import TCPStore  # type: ignore[attr-defined]

RANKS = 4
_DEADLINE = timedelta(seconds=60)


@ray.remote(num_cpus=1, scheduling_strategy="SPREAD")
class Rank:
    """One rank. Rank 0 keeps the store by which they find each other."""

    def __init__(self, rank: int) -> None:
        self.rank = rank
        self.store: Any = None

    def serve(self) -> tuple[str, int]:
        """Where the store is."""
        host = ray.util.get_node_ip_address()
        self.store = TCPStore(host, 0, is_master=True, wait_for_workers=False, timeout=_DEADLINE)
        return host, self.store.port

    def join(self, host: str, port: int) -> None:
        """Joins the group."""
        store = self.store or TCPStore(host, port, is_master=False, timeout=_DEADLINE)
        distributed.init_process_group("gloo", store=store, rank=self.rank, world_size=RANKS, timeout=_DEADLINE)

    def add_up(self, numbers: torch.Tensor) -> tuple[str, list[float]]:
        """On which machine, and the sum over the ranks of numbers + rank."""
        total = numbers + self.rank
        distributed.all_reduce(total)
        return os.uname().nodename, total.tolist()


def main() -> None:
    """The whole of it."""
    ray.init(address=os.environ["RAY_ADDRESS"])
    ranks = [Rank.remote(rank) for rank in range(RANKS)]  # type: ignore[attr-defined]
    where = ray.get(ranks[0].serve.remote())
    ray.get([rank.join.remote(*where) for rank in ranks])
    numbers = ray.put(torch.arange(1000.0))  # lies on this node; the others fetch it
    print(json.dumps(ray.get([rank.add_up.remote(numbers) for rank in ranks])))


if __name__ == "__main__":
    main()
