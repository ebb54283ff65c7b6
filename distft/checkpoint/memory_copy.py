"""A copy of a run's states in its nodes' memory: its files, who has them, who needs which. Pure.

Each node has the files of its own ranks and, for when it is lost, those of the node before it in a ring. They are those
of a checkpoint, so that what goes on from one of them goes on from the other alike.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from distft.checkpoint.manifest import FileRecord
from distft.checkpoint.role_layout import RoleLayout

_OF_A_RANK = re.compile(r"(?:states|rng)_(\d+)\.\w+")


@dataclass(frozen=True)
class MemoryCopy:
    """A whole one. ``name``: of its folder; ``progress``: the controller's state of then; ``layouts``: of the ranks
    that wrote it; ``files`` by their paths below the folder."""

    name: str
    step: int
    progress: Mapping[str, Any]
    layouts: Mapping[str, RoleLayout]
    files: Mapping[str, FileRecord]


def ring(nodes: Sequence[str]) -> dict[str, str]:
    """Of each node the one that has its files, too; nothing for one alone."""
    return dict(zip(nodes, [*nodes[1:], nodes[0]], strict=True)) if len(nodes) > 1 else {}


def needed_on(
    path: str, then: Mapping[str, RoleLayout], now: Mapping[str, RoleLayout], nodes: Mapping[str, Sequence[str]]
) -> set[str]:
    """The nodes that need a file. ``nodes``: of all ranks, by group.

    What belongs to no role the data worker reads. A rank whose layout is the former one reads its own file, and the
    first rank's for what belongs to no rank; where nothing is sharded each has written a part of what all read, and in
    another layout any may need any.
    """
    role, name = PurePosixPath(path).parts
    if role not in then:
        return set(nodes["data"])
    found = _OF_A_RANK.fullmatch(name)
    own = found is not None and int(found[1]) > 0 and then[role] == now[role] and now[role].zero_stage > 0
    return {nodes[role][int(found[1])]} if found is not None and own else set(nodes[role])


def sends(
    needs: Mapping[str, Collection[str]], held: Mapping[str, Collection[str]]
) -> dict[tuple[str, str], list[str]]:
    """Which node sends which files to which other, by (from, to), so that each has what it ``needs``, by node. Those
    who have a file send it in turn. Raises KeyError for one that nobody has."""
    busy: Counter[str] = Counter()
    found: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
    for target, paths in needs.items():
        for path in sorted(set(paths) - set(held.get(target, ()))):
            having = sorted(node for node, those in held.items() if path in those)
            if not having:
                raise KeyError(path)
            source = min(having, key=lambda node: busy[node])
            busy[source] += 1
            found[source, target].append(path)
    return dict(found)
