"""Who stays awake beside whom on devices that groups share, and who must sleep: decided from bytes, before the run.

A group that sleeps gives its states' memory to the others and keeps its process and its generator there. A group
that is awake is counted at its fullest moment also while another works, as the allocator of its process does not
give back what it has once had. On CPUs a sleep would free nothing, so that nobody sleeps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from distft.planning.footprint import GroupMemory
from distft.planning.hardware import Hardware
from distft.planning.placement_plan import Arrangement

# Share of a GPU up to which groups stay awake beside one that works: to be wrong costs a run, a sleep some seconds.
ROOM = 0.9
GIB = 2**30


@dataclass(frozen=True)
class Turn:
    """What the other groups of a device set do while one works, and the bytes of a device then taken.

    ``all_awake``: what it would be if none of them slept.
    """

    awake: tuple[str, ...]
    asleep: tuple[str, ...]
    bytes: int
    all_awake: int


def turns_of(groups: Mapping[str, GroupMemory], arrangement: Arrangement, hardware: Hardware) -> dict[str, Turn]:
    """The turn of every group. ``groups``: the memory of one rank of each.

    Those stay awake beside it that fit into ``ROOM`` of the device, and of all such choices the one that spares
    the most bytes of moving. Where the memory of a GPU or of a model is not known everybody sleeps in turn.
    """
    found = {}
    for members in arrangement.members.values():
        for group in members:
            others = tuple(other for other in members if other != group)
            capacity = int(ROOM * hardware.gpu_memory)
            awake = _awake(groups, group, others, capacity) if hardware.gpus else others
            asleep = tuple(other for other in others if other not in awake)
            everybody = sum(groups[member].awake for member in members)
            found[group] = Turn(awake, asleep, _taken(groups, group, awake, asleep), everybody)
    return found


def sleepers(turns: Mapping[str, Turn], members: Sequence[str]) -> tuple[str, ...]:
    """The groups of a device set that sleep at some time."""
    return tuple(group for group in members if any(group in turns[other].asleep for other in members))


def said(turns: Mapping[str, Turn], members: Sequence[str], capacity: int) -> list[str]:
    """The decision for people, a line for all groups of a device set or one for each that makes others sleep."""
    if not capacity or not turns[members[0]].all_awake:
        return [f"{', '.join(members)} take turns on the same devices: their memory is not known"]
    size = f"{capacity / GIB:.0f} GiB"
    if not sleepers(turns, members):
        return [f"awake together: {turns[members[0]].bytes / GIB:.0f} of {size} ({', '.join(members)})"]
    lines = []
    for group in members:
        turn = turns[group]
        if turn.asleep:
            beside = f" beside {', '.join(turn.awake)}" if turn.awake else ""
            lines.append(
                f"while {group} works{beside} ({turn.bytes / GIB:.0f} of {size}), {', '.join(turn.asleep)} "
                f"{'sleep' if len(turn.asleep) > 1 else 'sleeps'}: "
                f"all awake would take {turn.all_awake / GIB:.0f}, and {ROOM:.0%} is used"
            )
    return lines


def _awake(groups: Mapping[str, GroupMemory], group: str, others: tuple[str, ...], capacity: int) -> tuple[str, ...]:
    """Who of the others stays awake: the choice that fits and keeps the most bytes where they are."""
    choices = [choice for number in range(len(others), 0, -1) for choice in combinations(others, number)]
    if not all(groups[one].awake for one in (group, *others)):  # nothing is known of it
        return ()
    fitting = [choice for choice in choices if _taken_by(groups, group, choice, others) <= capacity]
    return max(fitting, key=lambda choice: sum(groups[one].waiting for one in choice), default=())


def _taken_by(groups: Mapping[str, GroupMemory], group: str, awake: Sequence[str], others: Sequence[str]) -> int:
    return _taken(groups, group, awake, [other for other in others if other not in awake])


def _taken(groups: Mapping[str, GroupMemory], group: str, awake: Sequence[str], asleep: Sequence[str]) -> int:
    return sum(groups[one].awake for one in (group, *awake)) + sum(groups[one].asleep for one in asleep)
