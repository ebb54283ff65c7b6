"""Who stays awake beside whom on devices that groups share, and who must sleep: decided from bytes, before the run.

A group that sleeps gives its memory to the others and keeps its process and its generator there; one that rests keeps
its weights besides. A group that is awake is counted at its fullest moment also while another works, as the allocator
of its process does not give back what it has once had. On CPUs a sleep would free nothing, so that nobody sleeps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

from distft.planning.footprint import GroupMemory
from distft.planning.hardware import Hardware
from distft.planning.placement_plan import Arrangement

# Share of a GPU up to which groups stay awake beside one that works: to be wrong costs a run, a sleep some seconds.
ROOM = 0.9
GIB = 2**30


@dataclass(frozen=True)
class Turn:
    """What the other groups of a device set do while one works, and the bytes of a device then taken.

    ``all_awake``: what it would be if none of them slept or rested.
    """

    awake: tuple[str, ...]
    resting: tuple[str, ...]
    asleep: tuple[str, ...]
    bytes: int
    all_awake: int


def turns_of(groups: Mapping[str, GroupMemory], arrangement: Arrangement, hardware: Hardware) -> dict[str, Turn]:
    """The turn of every group. ``groups``: the memory of one rank of each.

    Those stay awake beside it, or rest, that fit into ``ROOM`` of the device, and of all such choices the one that
    spares the most bytes of moving. Where the memory of a GPU or of a model is not known everybody sleeps in turn.
    """
    capacity = int(ROOM * hardware.gpu_memory)
    found = {}
    for members in arrangement.members.values():
        everybody = sum(groups[member].awake for member in members)
        known = all(groups[member].awake for member in members)
        for group in members:
            others = tuple(other for other in members if other != group)
            if not hardware.gpus:
                found[group] = Turn(others, (), (), everybody, everybody)
                continue
            choices = [_turn(groups, group, dict(zip(others, how, strict=True)), everybody)
                       for how in product(("awake", "resting", "asleep"), repeat=len(others))]  # fmt: skip
            fitting = [one for one in choices if known and one.bytes <= capacity]
            found[group] = max(fitting, key=lambda one: _spared(groups, one), default=choices[-1])
    return found


def away(groups: Mapping[str, GroupMemory], turns: Mapping[str, Turn], members: Sequence[str]) -> int:
    """Bytes of a node for the places of those who sleep or rest, one rank of each. They are made once and kept."""
    asleep = {group for other in members for group in turns[other].asleep}
    resting = {group for other in members for group in turns[other].resting} - asleep
    return sum(groups[one].waiting for one in asleep) + sum(groups[one].states for one in resting)


def said(turns: Mapping[str, Turn], members: Sequence[str], capacity: int) -> list[str]:
    """The decision for people, a line for all groups of a device set or one for each that makes others move."""
    if not capacity or not turns[members[0]].all_awake:
        return [f"{', '.join(members)} take turns on the same devices: their memory is not known"]
    size, lines = f"{capacity / GIB:.0f} GiB", []
    for group in members:
        turn = turns[group]
        moves = [
            f"{', '.join(names)} {verb if len(names) > 1 else f'{verb}s'}"
            for names, verb in ((turn.asleep, "sleep"), (turn.resting, "rest"))
            if names
        ]
        if moves:
            beside = f" beside {', '.join(turn.awake)}" if turn.awake else ""
            kept = " (weights stay)" if turn.resting else ""
            lines.append(
                f"while {group} works{beside} ({turn.bytes / GIB:.0f} of {size}), {' and '.join(moves)}{kept}: "
                f"all awake would take {turn.all_awake / GIB:.0f}, and {ROOM:.0%} is used"
            )
    return lines or [f"awake together: {turns[members[0]].bytes / GIB:.0f} of {size} ({', '.join(members)})"]


def _turn(groups: Mapping[str, GroupMemory], group: str, how: Mapping[str, str], everybody: int) -> Turn:
    """The turn in which the others are so."""

    def those(state: str) -> tuple[str, ...]:
        return tuple(other for other, its in how.items() if its == state)

    awake, resting, asleep = those("awake"), those("resting"), those("asleep")
    taken = sum(groups[one].awake for one in (group, *awake)) + sum(groups[one].resting for one in resting)
    return Turn(awake, resting, asleep, taken + sum(groups[one].asleep for one in asleep), everybody)


def _spared(groups: Mapping[str, GroupMemory], turn: Turn) -> tuple[int, int]:
    """Bytes that need not move, and how many stay awake: what rests has at least to take its memory anew."""
    staying = sum(groups[one].waiting for one in turn.awake) + sum(groups[one].weights for one in turn.resting)
    return staying, len(turn.awake)
