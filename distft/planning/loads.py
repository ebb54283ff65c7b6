"""How full the fullest GPU and the fullest node become."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Literal

from distft.planning.footprint import GroupMemory
from distft.planning.hardware import Hardware
from distft.planning.memory import PHASES, When
from distft.planning.placement_plan import Arrangement, NodeKind, Span, node_kinds
from distft.planning.residency import Turn, away

# On the first node the driver, the data worker and Ray's head; on every node Ray's processes and its store.
HEAD_BYTES = 2**30
NODE_BYTES = 2**28


@dataclass(frozen=True)
class Load:
    """The fullest GPU of a device set, or the fullest node: ``bytes`` of ``capacity`` at the fullest moment.

    ``parts``: who needs how much of a node at that moment.
    """

    where: str
    kind: Literal["gpu", "node"]
    roles: tuple[str, ...]
    bytes: int
    capacity: int
    parts: tuple[tuple[str, int], ...] = ()


def moments(works_ahead: Set[str]) -> tuple[tuple[When, ...], ...]:
    """What the ranks of a node may be doing at once: all the same, but what goes ahead (DPO's reference reads the next
    pairs) is done meanwhile."""
    ahead: tuple[When, ...] = ("forward",) if "forward" in works_ahead else ()
    return tuple((when,) if when in (*ahead, "loading") else (*ahead, when) for when in PHASES)


def loads(
    groups: Mapping[str, GroupMemory],
    arrangement: Arrangement,
    spans: Mapping[str, Sequence[Span]],
    hardware: Hardware,
    works_ahead: Set[str],
    turns: Mapping[str, Turn],
) -> tuple[Load, ...]:
    """The fullest GPU of each device set (GPU clusters) and the fullest node. ``groups``: one rank of each."""
    found = []
    if hardware.gpus:
        for root, members in arrangement.members.items():
            on_it = arrangement.roles_of_set[root]
            needed = max(turns[group].bytes for group in members)
            found.append(Load(f"GPUs of {', '.join(on_it)}", "gpu", on_it, needed, hardware.gpu_memory))
    at_once = moments(works_ahead)
    nodes = [_node_load(kind, groups, arrangement, hardware, at_once, turns) for kind in node_kinds(spans)]
    found.append(max(nodes, key=lambda load: load.bytes))
    return tuple(found)


def _node_load(
    kind: NodeKind,
    groups: Mapping[str, GroupMemory],
    arrangement: Arrangement,
    hardware: Hardware,
    at_once: Sequence[tuple[When, ...]],
    turns: Mapping[str, Turn],
) -> Load:
    """One node of a kind at its fullest moment."""

    def at(whens: tuple[When, ...]) -> dict[str, int]:
        found: dict[str, int] = {}
        for root, count in kind.ranks.items():
            held = {
                group: count * sum(groups[group].node.get(when, 0) for when in whens)
                for group in arrangement.members[root]
            }
            if hardware.gpus and whens == ("loading",):  # groups that share GPUs load one after the other
                largest = max(held, key=lambda group: held[group])
                held = {group: size if group == largest else 0 for group, size in held.items()}
            found |= held
        return found

    always, most = at(("always",)), max((at(whens) for whens in at_once), key=lambda held: sum(held.values()))
    parts = [("Ray", NODE_BYTES)]
    if kind.first_node == 0:
        parts.append(("driver, data worker, Ray's head", HEAD_BYTES))
    parts += [(group, size + most[group]) for group, size in always.items()]
    if hardware.gpus:
        for root, count in kind.ranks.items():
            parts.append(("places for those who sleep", count * away(groups, turns, arrangement.members[root])))
    roles = tuple(role for root in kind.ranks for role in arrangement.roles_of_set[root])
    named = tuple((name, size) for name, size in parts if size)
    return Load(f"node {kind.first_node}", "node", roles, sum(size for _, size in named), hardware.memory, named)
