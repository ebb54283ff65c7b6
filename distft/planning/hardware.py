"""The cluster file with every ``auto`` filled in, held against what is really there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from distft.common.errors import EnvironmentFallsShort
from distft.config.cluster import Cluster
from distft.planning.cards import known_card
from distft.planning.machine import GIB, Machine
from distft.planning.rates import Rates, by_data_sheet

# So much more than a card has may be said of it: 80 where the driver reports 79.6.
ROUNDED = 1.02


@dataclass(frozen=True)
class Hardware:
    """Nodes that are all alike. Memory in bytes; ``gpu_memory`` is 0 without GPUs or where it is not known.

    Rates of one GPU by its data sheet, 0 where the cluster file does not say them: ``flops`` of dense bfloat16
    products (FLOP/s), ``memory_bandwidth`` and ``link`` to its neighbours in one direction (bytes/s; ``nvlink``
    or PCIe). ``network``: bytes/s of one node in one direction. ``measured``: by ``distft calibrate``.
    ``spare_nodes``: more nodes that a Slurm job has, on which nothing is planned.
    """

    nodes: int
    cpus: int
    gpus: int
    memory: int
    gpu_memory: int
    ranks_per_cpu: int
    flops: float = 0.0
    memory_bandwidth: float = 0.0
    link: float = 0.0
    nvlink: bool = True
    network: float = 0.0
    measured: Rates | None = None
    spare_nodes: int = 0

    @property
    def rates(self) -> Rates:
        """What a rank really reaches: as measured, and where nothing was, by the data sheets."""
        by_sheet = by_data_sheet(self.flops, self.memory_bandwidth, self.link)
        return self.measured.or_else(by_sheet) if self.measured else by_sheet

    @property
    def slots(self) -> int:
        """Ranks that one node can hold."""
        return self.gpus or self.cpus * self.ranks_per_cpu


def hardware_of(cluster: Cluster, machine: Machine | None, measured: Rates | None = None) -> Hardware:
    """What the plan may use.

    ``machine`` is this machine for ``local`` clusters and the running cluster for ``ray``; a Slurm cluster
    file speaks for itself. Raises EnvironmentFallsShort where the file says more than is there, or ``auto``
    and no machine is given.
    """
    node = cluster.node
    said: dict[str, Any] = {
        "nodes": cluster.nodes, "cpus": node.cpus, "gpus": node.gpus, "memory_gib": node.memory_gib,
    }  # fmt: skip
    if machine is None or cluster.kind == "slurm":
        unknown = [key for key, value in said.items() if value == "auto"]
        if unknown:
            raise EnvironmentFallsShort(
                f"{unknown[0]} is `auto`, which is known on a running cluster only",
                where=f"cluster {cluster.name}",
                hint="distft train asks the one of RAY_ADDRESS; or write the numbers into a cluster file of your own",
            )
    else:
        _check(cluster.name, said, machine)
        said = {key: getattr(machine, key) if value == "auto" else value for key, value in said.items()}
    there = machine.gpu_memory_gib if machine is not None and cluster.kind != "slurm" else 0.0
    gpu_memory = _gpu_memory(cluster, there)
    return Hardware(
        nodes=said["nodes"],
        cpus=said["cpus"],
        gpus=said["gpus"],
        memory=int(said["memory_gib"] * GIB),
        gpu_memory=int(gpu_memory * GIB) if said["gpus"] else 0,
        ranks_per_cpu=node.ranks_per_cpu,
        measured=measured,
        spare_nodes=cluster.spare_nodes,
        **_rates(cluster, machine),
    )


def _gpu_memory(cluster: Cluster, there: float) -> float:
    """GiB of a GPU: what the file says, if the card has it; ``there`` is 0 where that is not known."""
    said = cluster.node.gpu.memory_gib if cluster.node.gpu else there
    if there and said > there * ROUNDED:
        raise EnvironmentFallsShort(
            f"the cluster file says gpu.memory_gib: {said:g}, the smallest GPU has {there:.1f}",
            where=f"cluster {cluster.name}",
            hint=f"nearest: gpu.memory_gib: {there:.1f}",
        )
    return min(said, there) if there else said


def _rates(cluster: Cluster, machine: Machine | None) -> dict[str, Any]:
    """What the data sheets say, in units without prefixes; the file's ``interconnect_gbs`` counts both directions."""
    gpu, network = cluster.node.gpu, cluster.network.bandwidth_gbps
    rates: dict[str, Any] = {"network": network * 1e9 / 8} if network else {}
    card = known_card(machine.gpu_type) if machine and gpu is None else None
    known = gpu or card
    if known is None:
        return rates
    return rates | {
        "flops": known.bf16_tflops * 1e12,
        "memory_bandwidth": known.memory_bandwidth_gbs * 1e9,
        "link": (known.interconnect_gbs or 0.0) * 1e9 / 2,
        "nvlink": gpu.interconnect == "nvlink" if gpu else bool(card and card.nvlink),
    }


def _check(cluster: str, said: dict[str, Any], machine: Machine) -> None:
    for key, asked in said.items():
        there = getattr(machine, key)
        if asked == "auto" or asked <= there:
            continue
        found = f"{there:.1f}" if isinstance(there, float) else str(there)
        raise EnvironmentFallsShort(
            f"the cluster file says {key}: {asked}, there {'is' if there == 1 else 'are'} {found}",
            where=f"cluster {cluster}",
            hint=f"nearest: --cluster local, which takes what is there; in a file of yours {key}: {found}, or auto",
        )
