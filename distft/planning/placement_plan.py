"""Which rank sits where: pure arithmetic on kinds of nodes, however many there are of each.

A *slot* holds one rank: a GPU, or on CPU nodes the ``ranks_per_cpu``-th part of a core. A *device set* is
the slots of one role, or of several roles that take turns on them (``with``). A *span* is the same slots on
neighbouring nodes, so that a thousand nodes which hold the same are one object and not eight thousand.

On GPU nodes a role is packed onto as few nodes as possible, because its collectives then stay on the fast
links; on CPU nodes it is spread over all nodes, so that each carries the same share of every model.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import NamedTuple

from distft.common.errors import EnvironmentFallsShort, UserError
from distft.config.engines import ENGINES
from distft.config.recipe import Recipe
from distft.config.role_table import ROLES, gives_scores
from distft.config.roles import has_engines, model_of, roles, trained_roles
from distft.planning.hardware import Hardware
from distft.planning.shares import shares

_ORDER = (*ROLES, ENGINES)


def _place(root: str) -> tuple[int, str]:
    """Where a device set stands among others: as its role, further reward models behind the first."""
    return _ORDER.index("reward" if gives_scores(root) else root), root


@dataclass(frozen=True)
class Arrangement:
    """Who lives with whom, and how many ranks: ``group_of`` role -> group, ``set_of`` group -> device set. The engines
    that generate count as a role here."""

    group_of: Mapping[str, str]
    set_of: Mapping[str, str]
    ranks: Mapping[str, int]

    @cached_property
    def members(self) -> dict[str, tuple[str, ...]]:
        """The groups on each device set."""
        return {root: tuple(group for group, base in self.set_of.items() if base == root) for root in self.ranks}

    @cached_property
    def roles_of_set(self) -> dict[str, tuple[str, ...]]:
        """The roles on each device set."""
        return {
            root: tuple(role for role, group in self.group_of.items() if group in groups)
            for root, groups in self.members.items()
        }

    def ranks_of(self, role: str) -> int:
        """The ranks on which a role lives."""
        return self.ranks[self.set_of[self.group_of[role]]]


@dataclass(frozen=True)
class Seat:
    """The slot of a rank."""

    node: int
    slot: int


@dataclass(frozen=True)
class Span:
    """``slots`` slots from ``first_slot`` on, on each of ``nodes`` nodes from ``first_node`` on; ranks node by node."""

    first_node: int
    nodes: int
    first_slot: int
    slots: int

    @property
    def ranks(self) -> int:
        """Ranks that sit in it."""
        return self.nodes * self.slots

    def __iter__(self) -> Iterator[Seat]:
        """Its seats in rank order."""
        for node in range(self.first_node, self.first_node + self.nodes):
            for slot in range(self.first_slot, self.first_slot + self.slots):
                yield Seat(node, slot)


@dataclass(frozen=True)
class NodeKind:
    """Neighbouring nodes that hold the same: ``ranks`` of each device set on one of them."""

    first_node: int
    nodes: int
    ranks: Mapping[str, int]


def node_kinds(spans: Mapping[str, Sequence[Span]]) -> list[NodeKind]:
    """The nodes that hold a rank, by kind, in node order; the first node by itself, as it also holds the driver."""
    edges = {0, 1}
    for chosen in spans.values():
        for span in chosen:
            edges |= {span.first_node, span.first_node + span.nodes}
    ordered, found = sorted(edges), []
    for first, end in pairwise(ordered):
        ranks: dict[str, int] = {}
        for root, chosen in spans.items():
            for span in chosen:
                if span.first_node <= first < span.first_node + span.nodes:
                    ranks[root] = ranks.get(root, 0) + span.slots
        if ranks:
            found.append(NodeKind(first, end - first, ranks))
    return found


def nodes_of(spans: Sequence[Span]) -> int:
    """Nodes on which a device set has ranks."""
    return sum(kind.nodes for kind in node_kinds({"": spans}))


def arrangements(recipe: Recipe, hardware: Hardware, *, fewer: bool = True) -> list[Arrangement]:
    """What may be tried, the plainest first; see ``_tried``. Raises UserError where none has as many ranks as share
    the rows of a role, or hold its parameters a second time, or a multiple of that."""
    found = _tried(recipe, hardware, fewer=fewer)
    together = [
        (role, key, getattr(model_of(recipe, role).engine, key), does)
        for key, does in (("sequence_parallel", "share rows"), ("hpz_partition_size", "hold all parameters"))
        for role in roles(recipe)
    ]

    def against(one: Arrangement) -> Iterator[tuple[str, str, int, str]]:
        """Of a single rank nothing is sharded, so there is nothing to hold a second time."""
        for role, key, by, does in together:
            if one.ranks_of(role) % by and not (key == "hpz_partition_size" and one.ranks_of(role) == 1):
                yield role, key, by, does

    whole = [one for one in found if not any(against(one))]
    if whole:
        return whole
    role, key, by, does = next(against(found[0]))
    raise UserError(
        f"{by} ranks {does}, and the {role} has {found[0].ranks_of(role)}",
        where=f"models.{role}.engine.{key}", hint=f"placement.{role}.ranks={by}, or a multiple of it",
    )  # fmt: skip


def _tried(recipe: Recipe, hardware: Hardware, *, fewer: bool) -> list[Arrangement]:
    """A placement that the recipe says in full leaves one.

    CPU: every ``auto`` role gets one rank per node; on a single node of two or more cores two ranks, if all
    roles find slots then, so that sharding is real on a laptop too.
    GPU: separate devices for each ``auto`` role, first in even shares, then in the other ones of ``shares``;
    all ``auto`` roles taking turns on the free GPUs; frozen roles taking turns with trained ones. ``fewer``:
    also on a part of the GPUs only.
    """
    group_of, set_of = _said(recipe)
    roots = sorted(set(set_of.values()), key=_place)
    said = {root: recipe.placement.of(root).ranks for root in roots}
    fixed = {root: ranks for root, ranks in said.items() if ranks != "auto"}
    automatic = [root for root in roots if root not in fixed]
    if not automatic:
        return [Arrangement(group_of, set_of, fixed)]
    if hardware.gpus == 0:
        return [Arrangement(group_of, set_of, fixed | _cpu_ranks(automatic, fixed, hardware))]
    free = hardware.nodes * hardware.gpus - sum(fixed.values())
    trained = trained_roles(recipe)
    found = []
    for guests in _partings([root for root in automatic if root != ENGINES], trained):
        together = {group: guests.get(root, root) for group, root in set_of.items()}
        hosts = sorted((root for root in automatic if root not in guests), key=lambda root: root not in trained)
        for ranks in shares(len(hosts), free, hardware.gpus, fewer=fewer):
            each = fixed | dict(zip(hosts, ranks, strict=True))
            found.append(Arrangement(group_of, together, {root: each[root] for root in roots if root in each}))
    return found or [Arrangement(group_of, set_of, fixed | dict.fromkeys(automatic, 1))]


def _partings(automatic: Sequence[str], trained: Sequence[str]) -> list[dict[str, str]]:
    """Who takes turns on whose devices (guest -> host): nobody; everybody; each frozen role with a trained one."""
    partings: list[dict[str, str]] = [{}, dict.fromkeys(automatic[1:], automatic[0])]
    hosts = [root for root in automatic if root in trained]
    frozen = [root for root in automatic if root not in trained]
    if len(hosts) > 1 and frozen:
        partings.append({guest: hosts[number % len(hosts)] for number, guest in enumerate(frozen)})
    return [parting for number, parting in enumerate(partings) if parting not in partings[:number]]


def seats(arrangement: Arrangement, hardware: Hardware) -> dict[str, tuple[Span, ...]]:
    """The spans of each device set, in rank order, which is node order.

    Raises EnvironmentFallsShort when they are more than the cluster has, UserError for a number of ranks
    that does not divide over its nodes.
    """
    if sum(arrangement.ranks.values()) > hardware.nodes * hardware.slots:
        raise _too_many(arrangement, hardware)
    order = sorted(arrangement.ranks, key=_place)
    if hardware.gpus:  # the largest first, so that the small ones fill the gaps
        order.sort(key=lambda root: -arrangement.ranks[root])
    runs = [_Run(0, hardware.nodes, 0)]
    placed: dict[str, tuple[Span, ...]] = {}
    for root in order:
        ranks = arrangement.ranks[root]
        picks = _packed(ranks, runs, hardware) if hardware.gpus else _spread(root, ranks, runs, hardware)
        spans: list[Span] = []
        for pick in picks:
            runs = list(_occupied(runs, pick, spans))
        if any(span.first_slot + span.slots > hardware.slots for span in spans):
            raise _too_many(arrangement, hardware)
        placed[root] = tuple(spans)
    return placed


def _said(recipe: Recipe) -> tuple[dict[str, str], dict[str, str]]:
    """Role to group (``share``) and group to device set (``with``); the recipe's rules allow no chains of them."""
    group_of: dict[str, str] = {role: recipe.placement.of(role).share or role for role in roles(recipe)}
    if has_engines(recipe):
        group_of[ENGINES] = ENGINES
    groups: list[str] = [role for role, group in group_of.items() if role == group]
    return group_of, {group: recipe.placement.of(group).with_ or group for group in groups}


def _cpu_ranks(automatic: Sequence[str], fixed: Mapping[str, int], hardware: Hardware) -> dict[str, int]:
    if hardware.nodes > 1:
        return dict.fromkeys(automatic, hardware.nodes)
    room = hardware.slots - sum(fixed.values())
    each = 2 if hardware.cpus >= 2 and room >= 2 * len(automatic) else 1
    return {
        root: 1 if root == ENGINES else each for root in automatic
    }  # an engine is whole: a second one shards nothing


class _Run(NamedTuple):
    """Neighbouring nodes on which as many slots are used."""

    first: int
    nodes: int
    used: int


class _Pick(NamedTuple):
    """``slots`` more slots on each of ``nodes`` nodes from ``first`` on."""

    first: int
    nodes: int
    slots: int


def _occupied(runs: Iterable[_Run], pick: _Pick, spans: list[Span]) -> Iterator[_Run]:
    """The runs after a pick; what it got is added to ``spans``."""
    for run in runs:
        low, high = max(run.first, pick.first), min(run.first + run.nodes, pick.first + pick.nodes)
        if low >= high:
            yield run
            continue
        if run.first < low:
            yield _Run(run.first, low - run.first, run.used)
        yield _Run(low, high - low, run.used + pick.slots)
        spans.append(Span(low, high - low, run.used, pick.slots))
        if high < run.first + run.nodes:
            yield _Run(high, run.first + run.nodes - high, run.used)


def _packed(ranks: int, runs: Sequence[_Run], hardware: Hardware) -> list[_Pick]:
    """The fullest node that still holds all, or whole nodes, or whatever is free."""
    gpus = hardware.gpus
    if ranks <= gpus:
        fitting = [(gpus - run.used, run.first) for run in runs if gpus - run.used >= ranks]
        if fitting:
            return [_Pick(min(fitting)[1], 1, ranks)]
    elif ranks % gpus:
        lower = ranks // gpus * gpus
        raise UserError(
            f"{ranks} ranks do not divide over nodes of {gpus} GPUs",
            where="placement",
            hint=f"nearest: {lower} or {lower + gpus}",
        )
    picks, left = [], ranks
    for run in sorted(runs, key=lambda run: (run.used, run.first)):
        free = gpus - run.used
        if not free or not left:
            continue
        whole = min(run.nodes, left // free)
        if whole:
            picks.append(_Pick(run.first, whole, free))
            left -= whole * free
        if left and whole < run.nodes:
            picks.append(_Pick(run.first + whole, 1, left))
            left = 0
    return sorted(picks)


def _spread(root: str, ranks: int, runs: Sequence[_Run], hardware: Hardware) -> list[_Pick]:
    """The same number on every node, or one each on the emptiest."""
    if ranks < hardware.nodes:
        picks, left = [], ranks
        for run in sorted(runs, key=lambda run: (run.used, run.first)):
            if left:
                picks.append(_Pick(run.first, min(run.nodes, left), 1))
                left -= picks[-1].nodes
        return sorted(picks)
    if ranks % hardware.nodes:
        lower = ranks // hardware.nodes * hardware.nodes
        raise UserError(
            f"{ranks} ranks do not divide over {hardware.nodes} nodes",
            where=f"placement.{root}.ranks",
            hint=f"nearest: {lower} or {lower + hardware.nodes}",
        )
    return [_Pick(run.first, run.nodes, ranks // hardware.nodes) for run in runs]


def _too_many(arrangement: Arrangement, hardware: Hardware) -> EnvironmentFallsShort:
    asked = sum(arrangement.ranks.values())
    have = hardware.nodes * hardware.slots
    listed = ", ".join(f"{root} {ranks}" for root, ranks in arrangement.ranks.items())
    if hardware.gpus:
        what = f"{asked} GPUs are asked for ({listed}), the cluster has {have} ({hardware.nodes} x {hardware.gpus})"
    else:
        what = (
            f"{asked} ranks are asked for ({listed}), the cluster has room for {have}: {hardware.nodes} "
            f"node{'s' if hardware.nodes > 1 else ''} x {hardware.cpus} CPU{'s' if hardware.cpus > 1 else ''} "
            f"x {hardware.ranks_per_cpu} ranks a CPU"
        )
    each = have // len(arrangement.ranks)
    if each:
        nearest = f"{each} rank{'s' if each > 1 else ''} for each of {', '.join(arrangement.ranks)} would fit"
    else:
        nearest = "roles on the same devices would fit"
    automatic = " ".join(f"placement.{root}.ranks=auto" for root in arrangement.ranks)
    return EnvironmentFallsShort(what, where="placement", hint=f"nearest: {nearest}; {automatic} finds what does")
