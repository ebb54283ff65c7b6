"""How long an iteration takes, and what it waits for: an upper limit, every sequence as long as the recipe allows.

    role x work (generate, forward, update, sync weights) ─► seconds of one rank, by what they go into
    phases of a step ─► per device set the sum (groups take turns), per phase the longest set ─► iteration

Nothing here is measured; ``costs`` names every assumption. Without rates in the cluster file (CPU clusters have
none) there is no estimate rather than a guess.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import TypeAlias

from distft.config.method import Phase, Work
from distft.planning import costs
from distft.planning.footprint import GroupMemory
from distft.planning.hardware import Hardware
from distft.planning.placement_plan import Arrangement
from distft.planning.residency import Turn
from distft.planning.role_time import Place, RoleTime, Timing

# By phase: what each device set does in it, in order.
Phases: TypeAlias = "list[tuple[str, dict[str, list[RoleTime]]]]"


@dataclass(frozen=True)
class Moves:
    """What groups that share devices have to move: their memory, and who sleeps while whom works."""

    groups: Mapping[str, GroupMemory]
    turns: Mapping[str, Turn]

    def seconds(self, sleeping: Iterable[str], waking: str | None) -> float:
        """These go to host memory and that one comes back."""
        moved = sum(self.groups[group].leaving for group in sleeping)
        return (moved + (self.groups[waking].waiting if waking else 0)) / costs.PCIE


@dataclass(frozen=True)
class PhaseTime:
    """One phase: as long as the device set that takes longest; on one set roles follow each other."""

    name: str
    seconds: float
    roles: tuple[RoleTime, ...]


@dataclass(frozen=True)
class Estimate:
    """One step (in RL: iteration). ``tokens_per_second`` of prompts and responses at their longest, all ranks."""

    seconds: float
    tokens_per_second: float
    phases: tuple[PhaseTime, ...]
    bottleneck: str


def why_unknown(hardware: Hardware, *, sizes_known: bool) -> str:
    """What an estimate lacks; empty where it lacks nothing."""
    if not sizes_known:
        return "the sizes of a model are not known"
    if not hardware.gpus:
        return "of CPUs no arithmetic rate is known"
    if not hardware.flops:
        return "the cluster file does not say node.gpu"
    if hardware.gpus > 1 and not hardware.link:
        return "the cluster file does not say node.gpu.interconnect_gbs"
    if hardware.nodes > 1 and not hardware.network:
        return "the cluster file does not say network.bandwidth_gbps"
    return ""


def step_seconds(timing: Timing, phases: Sequence[Phase], arrangement: Arrangement, places: Mapping[str, Place],
                 moves: Moves) -> float:  # fmt: skip
    """Seconds of a step alone, for many arrangements to be compared; see ``estimated``."""
    return sum(max(sum(time.seconds for time in times) for times in sets.values())
               for _, sets in _phases(timing, phases, arrangement, places, moves))  # fmt: skip


def estimated(timing: Timing, phases: Sequence[Phase], arrangement: Arrangement, places: Mapping[str, Place],
              moves: Moves, tokens: int) -> Estimate:  # fmt: skip
    """The step of a recipe whose method has these phases.

    ``places`` by device set; ``moves``: what changing places costs; ``tokens`` of the step.
    """
    found: list[PhaseTime] = []
    longest, cause = -1.0, None
    for name, sets in _phases(timing, phases, arrangement, places, moves):
        slowest = max(sets.values(), key=lambda times: sum(time.seconds for time in times))
        seconds = sum(time.seconds for time in slowest)
        found.append(PhaseTime(name, seconds, tuple(time for times in sets.values() for time in times)))
        if seconds > longest:
            heaviest = max(slowest, key=lambda time: time.seconds)
            longest, cause = seconds, heaviest
    total = sum(phase.seconds for phase in found)
    assert cause is not None
    said = f"{_whose(cause)} by {cause.bound_by} ({cause.seconds / total:.0%} of the time)"
    return Estimate(total, tokens / total, tuple(found), said)


def _whose(time: RoleTime) -> str:
    names = {"update": "the update of", "forward": "the forward pass of", "generate": "generation by",
             "sync weights": "the weight sync of", "take over": "the waking of"}  # fmt: skip
    return f"{names[time.work]} {time.role}, bound"


def _phases(timing: Timing, phases: Sequence[Phase], arrangement: Arrangement, places: Mapping[str, Place],
            moves: Moves) -> Phases:  # fmt: skip
    """What each device set does in each phase, in order, in a step like any other: groups begin where the step
    before left them.
    """
    awake: set[str] = set()
    slept: set[str] = set()
    found = _one_step(timing, phases, arrangement, places, moves, awake, slept)
    if len(arrangement.members) < len(arrangement.set_of):
        found = _one_step(timing, phases, arrangement, places, moves, awake, slept)
    return found


def _one_step(timing: Timing, phases: Sequence[Phase], arrangement: Arrangement, places: Mapping[str, Place],
              moves: Moves, awake: set[str], slept: set[str]) -> Phases:  # fmt: skip
    found: Phases = []
    for phase in phases:
        sets: dict[str, list[RoleTime]] = {}
        for work in _awake_first(phase.works, arrangement, awake):
            role = work.role
            group = arrangement.group_of[role]
            root = arrangement.set_of[group]
            times = sets.setdefault(root, [])
            sleeping = awake.intersection(moves.turns[group].asleep)
            if sleeping or group in slept:
                moved = moves.seconds(sleeping, group if group in slept else None)
                times.append(RoleTime(group, "take over", moved, {"host": moved}))
            awake -= sleeping
            slept |= sleeping
            slept.discard(group)
            awake.add(group)
            times.append(timing.of(role, work.does, places[root]))
        found.append((phase.name, sets))
    return found


def _awake_first(works: Sequence[Work], arrangement: Arrangement, awake: Set[str]) -> list[Work]:
    """The works of the roles that there are, those first whose group has the devices already."""
    mine = [work for work in works if work.role in arrangement.group_of]
    return sorted(mine, key=lambda work: arrangement.group_of[work.role] not in awake)
