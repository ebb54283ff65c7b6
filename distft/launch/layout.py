"""A recipe laid on hardware: the arrangement tried, where everything came to sit, and whether it fits.

Cheap enough to be done a hundred times while remedies are looked for; ``plan`` writes the chosen one out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from distft.config.recipe import Recipe
from distft.launch.footprint import Load, RoleMemory, loads, role_memory
from distft.launch.hardware import Hardware
from distft.launch.placement_plan import Arrangement, Seat, arrangements, seats


@dataclass(frozen=True)
class Layout:
    """``seats`` by device set; ``memory`` of one rank by role."""

    hardware: Hardware
    arrangement: Arrangement
    seats: Mapping[str, tuple[Seat, ...]]
    memory: Mapping[str, RoleMemory]
    loads: tuple[Load, ...]

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


def best_layout(recipe: Recipe, hardware: Hardware) -> Layout:
    """The first arrangement that fits, else the one that comes nearest.

    Raises EnvironmentFallsShort where there are too few slots, UserError for a placement that cannot be.
    """
    known: dict[tuple[str, int, bool], RoleMemory] = {}
    tried = []
    for arrangement in arrangements(recipe, hardware):
        layout = _lay_out(recipe, hardware, arrangement, known)
        if layout.fits is not False:
            return layout
        tried.append(layout)
    return min(tried, key=lambda layout: layout.fullness)


def _lay_out(
    recipe: Recipe, hardware: Hardware, arrangement: Arrangement, known: dict[tuple[str, int, bool], RoleMemory]
) -> Layout:
    placed = seats(arrangement, hardware)
    memory = {}
    for role, group in arrangement.group_of.items():
        key = (role, len(placed[arrangement.set_of[group]]), role != group)
        if key not in known:
            known[key] = role_memory(recipe, role, key[1], gpu=hardware.gpus > 0, shared=key[2])
        memory[role] = known[key]
    return Layout(hardware, arrangement, placed, memory, loads(memory, arrangement, placed, hardware))
