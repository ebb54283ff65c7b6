"""A recipe laid on hardware: which arrangement is taken, where everything comes to sit, and whether it fits.

Of the arrangements that fit, the one with the shortest estimated step (of those within a hundredth of it, the one
on the fewest ranks); where nothing can be estimated, the plainest. Everything that arrangements have in common is
computed once, so that thousands can be compared.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from distft.config.method import Traits
from distft.config.recipe import Recipe
from distft.config.roles import longest_sequence, phases, roles, samples_per_step
from distft.planning.estimate import Estimate, Moves, estimated, step_seconds, why_unknown
from distft.planning.footprint import (
    GroupMemory,
    RoleMemory,
    Roles,
    SizeBook,
    group_memory,
    needed_in_turns,
    role_memory,
)
from distft.planning.hardware import Hardware
from distft.planning.loads import Load, loads
from distft.planning.placement_plan import Arrangement, Span, arrangements, nodes_of, seats
from distft.planning.residency import Turn, turns_of
from distft.planning.role_time import Place, Timing

# Steps that differ by less than this factor are alike: no estimate is better than that.
ALIKE = 1.01


@dataclass(frozen=True)
class Layout:
    """``spans`` by device set; ``memory`` of one rank by role; ``turns`` by group; ``unknown``: why there is no
    estimate.
    """

    hardware: Hardware
    arrangement: Arrangement
    spans: Mapping[str, tuple[Span, ...]]
    memory: Mapping[str, RoleMemory]
    loads: tuple[Load, ...]
    turns: Mapping[str, Turn]
    estimate: Estimate | None
    unknown: str

    @property
    def fits(self) -> bool | None:
        """Whether every load keeps to its capacity; None where the sizes of a model or of a GPU are not known."""
        if any(load.capacity and load.bytes > load.capacity for load in self.loads):
            return False
        unknown = any(role.unknown for role in self.memory.values()) or any(not load.capacity for load in self.loads)
        return None if unknown else True

    @property
    def fullness(self) -> float:
        """The largest share of a capacity that is taken; above 1 it does not fit."""
        return max(load.bytes / load.capacity for load in self.loads if load.capacity)


def best_layout(recipe: Recipe, hardware: Hardware, book: SizeBook | None = None) -> Layout:
    """The quickest arrangement that fits, else the one that comes nearest.

    Raises EnvironmentFallsShort where there are too few slots, UserError for a placement that cannot be.
    """
    study = Study(recipe, hardware, book or SizeBook())
    plain = study.arrangements(fewer=False)
    if len(plain) == 1 and study.layout(plain[0]).fits is not False:
        return study.layout(plain[0])
    if study.unknown:
        return study.first([*plain, *study.arrangements(fewer=True)])
    found = study.quickest(study.arrangements(fewer=True))
    return found or study.nearest(plain)


def fits(recipe: Recipe, hardware: Hardware, book: SizeBook | None = None) -> bool:
    """Whether any arrangement does. Raises as ``best_layout``."""
    study = Study(recipe, hardware, book or SizeBook())
    return any(study.layout(one).fits is True for one in study.arrangements(fewer=False) if study.has_room(one))


class Study:
    """One recipe on one cluster, and what is known of its roles by their number of ranks."""

    def __init__(self, recipe: Recipe, hardware: Hardware, book: SizeBook) -> None:
        self._recipe, self._hardware = recipe, hardware
        self._facts = Roles(recipe, book)
        self._roles: dict[tuple[str, int, bool], RoleMemory] = {}
        self._groups: dict[tuple[str, int], GroupMemory] = {}
        self._timing = Timing(self._facts, hardware)
        known = not any(self._role(role, 1, shared=False).unknown for role in roles(recipe))
        self.unknown = why_unknown(hardware, sizes_known=known)

    def arrangements(self, *, fewer: bool) -> list[Arrangement]:
        """What may be tried; ``fewer``: on a part of the GPUs too."""
        return arrangements(self._recipe, self._hardware, fewer=fewer)

    def has_room(self, arrangement: Arrangement) -> bool:
        """Whether it fits the GPUs; nodes are left to ``layout``."""
        if not self._hardware.gpu_memory:
            return True
        for root, members in arrangement.members.items():
            ranks = arrangement.ranks[root]
            held = [self._group(arrangement, group, ranks) for group in members]
            if needed_in_turns(held) > self._hardware.gpu_memory:
                return False
        return True

    def quickest(self, tries: list[Arrangement]) -> Layout | None:
        """Of those that fit; of those that an estimate cannot tell apart the one on the fewest ranks."""
        timed = [(self._seconds(one), sum(one.ranks.values()), number)
                 for number, one in enumerate(tries) if self.has_room(one)]  # fmt: skip
        best = next((seconds for seconds, _, number in sorted(timed) if self.layout(tries[number]).fits), None)
        if best is None:
            return None
        alike = sorted((ranks, number) for seconds, ranks, number in timed if seconds <= ALIKE * best)
        layouts = (self.layout(tries[number]) for _, number in alike)
        return next(layout for layout in layouts if layout.fits)

    def first(self, tries: list[Arrangement]) -> Layout:
        """The first that is not known to be too large, else the nearest."""
        for one in tries:
            if self.has_room(one) and (layout := self.layout(one)).fits is not False:
                return layout
        return self.nearest(tries)

    def nearest(self, tries: list[Arrangement]) -> Layout:
        """The one that lacks least."""
        return min((self.layout(one) for one in tries), key=lambda layout: layout.fullness)

    def layout(self, arrangement: Arrangement) -> Layout:
        """The arrangement in full."""
        spans = seats(arrangement, self._hardware)
        ranks = {group: arrangement.ranks[root] for group, root in arrangement.set_of.items()}
        groups = {group: self._group(arrangement, group, count) for group, count in ranks.items()}
        memory = {
            role: self._role(role, ranks[group], shared=role != group) for role, group in arrangement.group_of.items()
        }
        estimate, turns = None, turns_of(groups, arrangement, self._hardware)
        if not self.unknown:
            places = {root: Place(arrangement.ranks[root], nodes_of(chosen)) for root, chosen in spans.items()}
            tokens = samples_per_step(self._recipe) * longest_sequence(self._recipe)
            moves = Moves(groups, turns, self._hardware.rates.host_link)
            estimate = estimated(self._timing, phases(self._recipe), arrangement, places, moves, tokens)
        found = loads(groups, arrangement, spans, self._hardware, self._traits.works_ahead, turns)
        return Layout(self._hardware, arrangement, spans, memory, found, turns, estimate, self.unknown)

    @property
    def _traits(self) -> Traits:
        return self._recipe.algorithm.traits

    def _seconds(self, arrangement: Arrangement) -> float:
        """A step's time if every device set is packed onto as few nodes as it can."""
        places = {root: Place(ranks, -(-ranks // self._hardware.gpus)) for root, ranks in arrangement.ranks.items()}
        groups = {
            group: self._group(arrangement, group, arrangement.ranks[root])
            for group, root in arrangement.set_of.items()
        }
        moves = Moves(groups, turns_of(groups, arrangement, self._hardware), self._hardware.rates.host_link)
        return step_seconds(self._timing, phases(self._recipe), arrangement, places, moves)

    def _role(self, role: str, ranks: int, *, shared: bool) -> RoleMemory:
        key = (role, ranks, shared)
        if key not in self._roles:
            gpu, nodes = self._hardware.gpus > 0, self._hardware.nodes
            self._roles[key] = role_memory(self._facts, role, ranks, gpu=gpu, shared=shared, nodes=nodes)
        return self._roles[key]

    def _group(self, arrangement: Arrangement, group: str, ranks: int) -> GroupMemory:
        """A group's roles are the same in all arrangements."""
        key = (group, ranks)
        if key not in self._groups:
            mine = [role for role, own in arrangement.group_of.items() if own == group]
            items = [self._role(role, ranks, shared=role != group).items for role in mine]
            self._groups[key] = group_memory(*items, gpu=self._hardware.gpus > 0)
        return self._groups[key]
