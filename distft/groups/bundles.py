"""The arithmetic of placement: what groups ask for, on which nodes it can lie, who becomes which rank.

Pure. A *bundle* is what one rank's place needs: the groups of one device set share their bundles,
rank i of each in bundle i. GPUs of a bundle are used in turn, CPUs and memory at the same time.
"""

from __future__ import annotations

import ipaddress
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from distft.common.errors import EnvironmentFallsShort


@dataclass(frozen=True)
class GroupSpec:
    """One group to start.

    ``device_set``: groups with the same one share devices, and compute on them one after the other; those ``beside``
    it stay awake while it does, those ``resting`` keep their weights, the others sleep. ``env``: environment of the
    workers. ``worker``: "module:Class", constructed in its actor with ``rank, world_size,
    node_ip, local_rank`` and ``spec`` as keywords. ``node_of_rank``: ranks with equal numbers lie
    on one node, with different numbers on different ones, over all groups; None leaves it to Ray.
    ``memory``: bytes per rank that Ray is to set aside, 0 for none. ``micro_batch_cost``: see ``handles.Group``.
    ``preloaded``: a module that is imported once on a node for all ranks (see ``fork_server``); none where empty.
    ``replaceable``: a worker that dies may be followed by another while the attempt goes on (see ``succession``).
    ``lives_with``: the group in whose processes its ranks live, rank by rank, and compute in turn; empty: processes of
    its own. Then its device set, places and environment are that group's, and the worker is constructed with that
    one's, of the same rank, as ``host``.
    """

    role: str
    num_ranks: int
    worker: str
    device_set: str = ""
    beside: tuple[str, ...] = ()
    resting: tuple[str, ...] = ()
    cpus_per_rank: float = 1.0
    gpus_per_rank: float = 0.0
    env: Mapping[str, str] = field(default_factory=dict)
    spec: Mapping[str, Any] = field(default_factory=dict)
    node_of_rank: tuple[int, ...] | None = None
    memory: int = 0
    micro_batch_cost: int | None = None
    preloaded: str = ""
    replaceable: bool = False
    lives_with: str = ""

    def __post_init__(self) -> None:
        if self.node_of_rank is not None and len(self.node_of_rank) != self.num_ranks:
            raise ValueError(f"{self.role}: {len(self.node_of_rank)} nodes for {self.num_ranks} ranks")

    @property
    def devices(self) -> str:
        """The device set's name; a group without one has its own."""
        return self.device_set or self.role


@dataclass(frozen=True)
class Bundle:
    """Resources of one place, and the number of the node where it must lie (None: anywhere)."""

    resources: Mapping[str, float]
    node: int | None


# The label by which a launcher that starts Ray on every node numbers the nodes, from 0.
NODE_LABEL = "distft-node"


@dataclass(frozen=True)
class Node:
    """A node of the cluster and all that it has. ``number``: what its launcher numbered it, None if it did not."""

    node_id: str
    ip: str
    resources: Mapping[str, float]
    number: int | None = None


@dataclass(frozen=True)
class Where:
    """What a started actor says of itself. ``place``: its bundle; ``not_forked``: why it was not (see ``shell``)."""

    place: int
    node_id: str
    node_ip: str
    hostname: str
    pid: int
    devices: tuple[str, ...]
    not_forked: str = ""


def sharers(specs: Sequence[GroupSpec]) -> dict[str, list[GroupSpec]]:
    """The groups of each device set, in order. ValueError where they contradict each other."""
    sets: dict[str, list[GroupSpec]] = {}
    for spec in specs:
        sets.setdefault(spec.devices, []).append(spec)
    for name, members in sets.items():
        nodes = {spec.node_of_rank for spec in members}
        if len(nodes) > 1:
            raise ValueError(f"groups {[spec.role for spec in members]} share {name} but not their nodes")
        if len(members) > 1 and any(spec.gpus_per_rank > 1 for spec in members):
            raise ValueError(f"groups sharing {name} must use at most one GPU a rank")
    return sets


def bundles(members: Sequence[GroupSpec]) -> tuple[Bundle, ...]:
    """The places of one device set."""
    places = []
    for place in range(max(spec.num_ranks for spec in members)):
        here = [spec for spec in members if spec.num_ranks > place]
        wanted = {
            "CPU": sum(spec.cpus_per_rank for spec in here),
            "GPU": max(spec.gpus_per_rank for spec in here),
            "memory": float(sum(spec.memory for spec in here)),
        }
        nodes = here[0].node_of_rank
        resources = {name: amount for name, amount in wanted.items() if amount}
        places.append(Bundle(resources, None if nodes is None else nodes[place]))
    return tuple(places)


def gpu_share(spec: GroupSpec, members: Sequence[GroupSpec]) -> float:
    """GPUs that one actor asks of Ray: its part of the bundle's, so that all sharers fit in it."""
    if len(members) == 1:
        return spec.gpus_per_rank
    return math.floor(spec.gpus_per_rank / len(members) * 1e4) / 1e4


def node_number(labels: Mapping[str, str]) -> int | None:
    """The number that a node's launcher gave it; None for nodes that nobody numbered."""
    text = labels.get(NODE_LABEL, "")
    return int(text) if text.isdecimal() else None


def in_order(nodes: Sequence[Node], here: str) -> list[Node]:
    """By their numbers; nodes without one behind them, the driver's (``here``) first, then by address."""

    def key(node: Node) -> tuple[float, bool, tuple[int, int], str]:
        number = math.inf if node.number is None else float(node.number)
        return number, node.node_id != here, _address(node.ip), node.node_id

    return sorted(nodes, key=key)


def choose_nodes(places: Sequence[Bundle], nodes: Sequence[Node]) -> dict[int, str]:
    """Which node of the cluster each node number is: the first assignment in order that fits.

    Raises EnvironmentFallsShort, saying what is asked and what there is, if nothing fits.
    """
    everything = _total([place.resources for place in places])
    cluster = _total([node.resources for node in nodes])
    if not _fits(everything, cluster):
        raise _falls_short(f"the groups ask for {_said(everything)} in all", nodes)
    for place in places:
        if not any(_fits(place.resources, node.resources) for node in nodes):
            raise _falls_short(f"one rank asks for {_said(place.resources)} on one node", nodes)
    numbers = sorted({place.node for place in places if place.node is not None})
    needs = {n: _total([place.resources for place in places if place.node == n]) for n in numbers}
    taken: dict[str, int] = {}
    for number in numbers:
        if not _assign(number, needs, nodes, taken, set()):
            asked = "; ".join(f"node {n}: {_said(needs[n])}" for n in numbers)
            raise _falls_short(f"the groups ask for {len(numbers)} nodes with {asked}", nodes)
    return {number: node_id for node_id, number in taken.items()}


def _assign(
    number: int, needs: Mapping[int, Mapping[str, float]], nodes: Sequence[Node], taken: dict[str, int], tried: set[str]
) -> bool:
    """Kuhn's augmenting path: finds ``number`` a node, moving earlier numbers only where no other way is left.

    The node that bears this number comes first, then those that are free, in their order.
    """
    fitting = [node for node in nodes if _fits(needs[number], node.resources)]
    for node in sorted(fitting, key=lambda node: (node.number != number, node.node_id in taken)):
        if node.node_id in tried:
            continue
        tried.add(node.node_id)
        if node.node_id not in taken or _assign(taken[node.node_id], needs, nodes, taken, tried):
            taken[node.node_id] = number
            return True
    return False


def rank_order(answers: Sequence[Where], node_of_rank: Sequence[int] | None) -> list[Where]:
    """The actors in the order of their ranks: by node, then device, then place.

    Nodes follow ``node_of_rank`` or else their addresses.
    """
    if node_of_rank is None:
        return sorted(answers, key=lambda w: (_address(w.node_ip), w.node_id, _devices(w), w.place))
    return sorted(answers, key=lambda w: (node_of_rank[w.place], _devices(w), w.place))


def local_ranks(ranks: Sequence[Where]) -> list[int]:
    """Each rank's number among those of its node."""
    return [sum(other.node_id == where.node_id for other in ranks[:rank]) for rank, where in enumerate(ranks)]


def _devices(where: Where) -> tuple[tuple[int, str], ...]:
    return tuple((int(device), "") if device.isdecimal() else (0, device) for device in where.devices)


def _address(ip: str) -> tuple[int, int]:
    address = ipaddress.ip_address(ip)
    return address.version, int(address)


def _total(amounts: Sequence[Mapping[str, float]]) -> dict[str, float]:
    names = sorted({name for amount in amounts for name in amount})
    return {name: sum(amount.get(name, 0.0) for amount in amounts) for name in names}


def _fits(wanted: Mapping[str, float], there: Mapping[str, float]) -> bool:
    return all(amount <= there.get(name, 0.0) + 1e-6 for name, amount in wanted.items())


def _falls_short(asked: str, nodes: Sequence[Node]) -> EnvironmentFallsShort:
    has = "; ".join(f"{node.ip}: {_said(node.resources)}" for node in nodes) or "no node"
    return EnvironmentFallsShort(
        f"{asked}; the cluster has {has}", where="placement", hint="ask for fewer ranks, or give the cluster more"
    )


def _said(resources: Mapping[str, float]) -> str:
    words = [f"{resources.get('CPU', 0.0):g} CPUs", f"{resources.get('GPU', 0.0):g} GPUs"]
    if resources.get("memory"):
        words.append(f"{resources['memory'] / 2**30:.1f} GiB")
    return ", ".join(words)
