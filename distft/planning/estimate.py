"""How long an iteration takes, and what it waits for: an upper limit, every sequence as long as the recipe allows.

    role x work (generate, forward, update, sync weights) ─► seconds of one rank, by what they go into
    phases of a step ─► per device set the sum (groups take turns), per phase the longest set ─► iteration

``rates`` says what was measured and what is assumed. Where neither the cluster file nor a calibration knows a GPU
there is no estimate rather than a guess, nor is there for CPU clusters, where groups compute on the same cores.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from typing import TypeAlias

from distft.config.method import Phase
from distft.planning.footprint import GroupMemory
from distft.planning.hardware import Hardware
from distft.planning.placement_plan import Arrangement
from distft.planning.residency import Turn
from distft.planning.role_time import Place, RoleTime, Timing

# By phase: what each device set does in it, in order.
Phases: TypeAlias = "list[tuple[str, dict[str, list[RoleTime]]]]"


class Moves:
    """What groups that share devices have to move: their memory, who makes room for whom, and who holds what now.

    A group is moved as ``groups.lanes`` will: out goes what the plan says must, back comes what the work needs.
    """

    def __init__(self, groups: Mapping[str, GroupMemory], turns: Mapping[str, Turn], host_link: float) -> None:
        self._groups, self._turns, self._host_link = groups, turns, host_link
        self._away: dict[str, set[str]] = {group: set() for group in groups}
        self._begun: set[str] = set()

    def seconds(self, group: str, work: str) -> float:
        """Until a group can begin with a work."""
        turn, moved = self._turns[group], 0
        for others, parts in ((turn.resting, {"states"}), (turn.asleep, {"weights", "states"})):
            for other in self._begun.intersection(others):
                leaving = parts - self._away[other]
                self._away[other] |= leaving
                moved += 0 if self._groups[other].frozen else self._bytes(other, leaving)
        needed = {"weights", "states"} if work == "update" else {"weights"}
        moved += self._bytes(group, needed & self._away[group])
        self._away[group] -= needed
        self._begun.add(group)
        return moved / self._host_link

    def at_hand(self, group: str) -> bool:
        """Whether its weights are on the devices."""
        return group in self._begun and "weights" not in self._away[group]

    def _bytes(self, group: str, parts: Set[str]) -> int:
        sizes = {"weights": self._groups[group].weights, "states": self._groups[group].states}
        return sum(sizes[part] for part in parts)


@dataclass(frozen=True)
class PhaseTime:
    """One phase: as long as the device set that takes longest; on one set roles follow each other."""

    name: str
    seconds: float
    roles: tuple[RoleTime, ...]


@dataclass(frozen=True)
class Estimate:
    """One step (in RL: iteration). ``tokens_per_second`` of prompts and responses at their longest, all ranks;
    ``certainty``: what it is worth.
    """

    seconds: float
    tokens_per_second: float
    phases: tuple[PhaseTime, ...]
    bottleneck: str
    certainty: str = ""


def why_unknown(hardware: Hardware, *, sizes_known: bool) -> str:
    """What an estimate lacks; empty where it lacks nothing."""
    if not sizes_known:
        return "the sizes of a model are not known"
    if not hardware.gpus:
        return "of CPU clusters none is made"
    if not hardware.rates.arithmetic:
        return "the cluster file does not say node.gpu (distft calibrate measures it)"
    if hardware.gpus > 1 and not hardware.rates.link:
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
    return Estimate(total, tokens / total, tuple(found), said, timing.certainty)


def _whose(time: RoleTime) -> str:
    names = {"update": "the update of", "forward": "the forward pass of", "generate": "generation by",
             "sync weights": "the weight sync of", "take over": "the waking of"}  # fmt: skip
    return f"{names[time.work]} {time.role}, bound"


def _phases(timing: Timing, phases: Sequence[Phase], arrangement: Arrangement, places: Mapping[str, Place],
            moves: Moves) -> Phases:  # fmt: skip
    """What each device set does in each phase, in order, in a step like any other: groups begin where the step
    before left them.
    """
    found = _one_step(timing, phases, arrangement, places, moves)
    if len(arrangement.members) < len(arrangement.set_of):
        found = _one_step(timing, phases, arrangement, places, moves)
    return found


def _one_step(timing: Timing, phases: Sequence[Phase], arrangement: Arrangement, places: Mapping[str, Place],
              moves: Moves) -> Phases:  # fmt: skip
    found: Phases = []
    for phase in phases:
        sets: dict[str, list[RoleTime]] = {}
        mine = [work for work in phase.works if work.role in arrangement.group_of]
        # Those first whose group has the devices already.
        for work in sorted(mine, key=lambda work: not moves.at_hand(arrangement.group_of[work.role])):
            group = arrangement.group_of[work.role]
            root = arrangement.set_of[group]
            times = sets.setdefault(root, [])
            if moved := moves.seconds(group, work.does):
                times.append(RoleTime(group, "take over", moved, {"host": moved}))
            times.append(timing.of(work.role, work.does, places[root]))
        found.append((phase.name, sets))
    return found
