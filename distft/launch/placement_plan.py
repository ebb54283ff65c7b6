"""Which rank sits where: pure arithmetic on nodes and slots.

A *slot* holds one rank: a GPU, or on CPU nodes the ``ranks_per_cpu``-th part of a core. A *device set* is
the slots of one role, or of several roles that take turns on them (``with``).

On GPU nodes a role is packed onto as few nodes as possible, because its collectives then stay on the fast
links; on CPU nodes it is spread over all nodes, so that each carries the same share of every model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from distft.common.errors import EnvironmentFallsShort, UserError
from distft.config.recipe import Recipe
from distft.config.roles import roles, trained_roles
from distft.config.training import ROLES
from distft.launch.hardware import Hardware


@dataclass(frozen=True)
class Arrangement:
    """Who lives with whom, and how many ranks: ``group_of`` role -> group, ``set_of`` group -> device set."""

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


@dataclass(frozen=True)
class Seat:
    """The slot of a rank."""

    node: int
    slot: int


def arrangements(recipe: Recipe, hardware: Hardware) -> list[Arrangement]:
    """What may be tried, best first; a placement that the recipe says in full leaves one.

    CPU: every ``auto`` role gets one rank per node; on a single node of two or more cores two ranks, if all
    roles find slots then, so that sharding is real on a laptop too.
    GPU: separate devices for each ``auto`` role, in powers of two or whole nodes, trained roles doubled while
    GPUs are left; and all ``auto`` roles taking turns on all of the free GPUs.
    """
    group_of, set_of = _said(recipe)
    roots: list[str] = [role for role in ROLES if role in set_of.values()]
    said = {root: recipe.placement.of(root).ranks for root in roots}
    fixed = {root: ranks for root, ranks in said.items() if ranks != "auto"}
    automatic = [root for root in roots if root not in fixed]
    if not automatic:
        return [Arrangement(group_of, set_of, fixed)]
    if hardware.gpus == 0:
        return [Arrangement(group_of, set_of, fixed | _cpu_ranks(automatic, fixed, hardware))]
    free = hardware.nodes * hardware.gpus - sum(fixed.values())
    tries = []
    if separate := _gpu_ranks(automatic, free, hardware.gpus, trained_roles(recipe)):
        tries.append(Arrangement(group_of, set_of, fixed | separate))
    if len(automatic) > 1 and free > 0:
        together = {group: automatic[0] if root in automatic else root for group, root in set_of.items()}
        ranks = free if free <= hardware.gpus else free // hardware.gpus * hardware.gpus
        tries.append(Arrangement(group_of, together, fixed | {automatic[0]: ranks}))
    return tries or [Arrangement(group_of, set_of, fixed | dict.fromkeys(automatic, 1))]


def seats(arrangement: Arrangement, hardware: Hardware) -> dict[str, tuple[Seat, ...]]:
    """The seats of each device set, in rank order, which is node order.

    Raises EnvironmentFallsShort when they are more than the cluster has, UserError for a number of ranks
    that does not divide over its nodes.
    """
    asked = sum(arrangement.ranks.values())
    if asked > hardware.nodes * hardware.slots:
        raise _too_many(arrangement, hardware)
    order = [role for role in ROLES if role in arrangement.ranks]
    if hardware.gpus:  # the largest first, so that the small ones fill the gaps
        order.sort(key=lambda root: -arrangement.ranks[root])
    used = [0] * hardware.nodes
    placed: dict[str, tuple[Seat, ...]] = {}
    for root in order:
        ranks = arrangement.ranks[root]
        counts = _packed(ranks, used, hardware) if hardware.gpus else _spread(root, ranks, used, hardware)
        if any(used[node] + count > hardware.slots for node, count in counts):
            raise _too_many(arrangement, hardware)
        chosen = []
        for node, count in counts:
            chosen += [Seat(node, used[node] + offset) for offset in range(count)]
            used[node] += count
        placed[root] = tuple(chosen)
    return placed


def _said(recipe: Recipe) -> tuple[dict[str, str], dict[str, str]]:
    """Role to group (``share``) and group to device set (``with``); the recipe's rules allow no chains of them."""
    group_of: dict[str, str] = {role: recipe.placement.of(role).share or role for role in roles(recipe)}
    groups: list[str] = [role for role, group in group_of.items() if role == group]
    return group_of, {group: recipe.placement.of(group).with_ or group for group in groups}


def _cpu_ranks(automatic: Sequence[str], fixed: Mapping[str, int], hardware: Hardware) -> dict[str, int]:
    if hardware.nodes > 1:
        return dict.fromkeys(automatic, hardware.nodes)
    room = hardware.slots - sum(fixed.values())
    return dict.fromkeys(automatic, 2 if hardware.cpus >= 2 and room >= 2 * len(automatic) else 1)


def _gpu_ranks(automatic: Sequence[str], free: int, per_node: int, trained: Sequence[str]) -> dict[str, int]:
    """Even shares rounded down to whole nodes or a power of two; what is left doubles the trained roles first."""
    share = free // len(automatic)
    if share == 0:
        return {}
    if len(automatic) == 1:
        return {automatic[0]: share if share <= per_node else share // per_node * per_node}
    even = share // per_node * per_node if share >= per_node else 1 << (share.bit_length() - 1)
    ranks = dict.fromkeys(automatic, even)
    for role in sorted(automatic, key=lambda role: role not in trained):
        if sum(ranks.values()) + ranks[role] <= free:
            ranks[role] *= 2
    return ranks


def _packed(ranks: int, used: Sequence[int], hardware: Hardware) -> list[tuple[int, int]]:
    """(node, ranks on it): the fullest node that still holds all, or whole nodes, or whatever is free."""
    free = [hardware.gpus - taken for taken in used]
    if ranks <= hardware.gpus:
        fitting = [node for node, left in enumerate(free) if left >= ranks]
        if fitting:
            return [(min(fitting, key=lambda node: (free[node], node)), ranks)]
    elif ranks % hardware.gpus:
        lower = ranks // hardware.gpus * hardware.gpus
        raise UserError(
            f"{ranks} ranks do not divide over nodes of {hardware.gpus} GPUs",
            where="placement",
            hint=f"nearest: {lower} or {lower + hardware.gpus}",
        )
    counts, left = [], ranks
    for node in sorted(range(len(free)), key=lambda node: (-free[node], node)):
        count = min(left, free[node])
        if count:
            counts.append((node, count))
        left -= count
    return sorted(counts)


def _spread(root: str, ranks: int, used: Sequence[int], hardware: Hardware) -> list[tuple[int, int]]:
    """(node, ranks on it): the same number on every node, or one each on the emptiest."""
    if ranks < hardware.nodes:
        emptiest = sorted(range(hardware.nodes), key=lambda node: (used[node], node))[:ranks]
        return [(node, 1) for node in sorted(emptiest)]
    if ranks % hardware.nodes:
        lower = ranks // hardware.nodes * hardware.nodes
        raise UserError(
            f"{ranks} ranks do not divide over {hardware.nodes} nodes",
            where=f"placement.{root}.ranks",
            hint=f"nearest: {lower} or {lower + hardware.nodes}",
        )
    return [(node, ranks // hardware.nodes) for node in range(hardware.nodes)]


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
        nearest = f"roles that take turns on the same devices would fit: `with: {next(iter(arrangement.ranks))}`"
    return EnvironmentFallsShort(what, where="placement", hint=f"nearest: {nearest}; or `ranks: auto`")
