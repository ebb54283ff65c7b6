"""How the cores of a node are divided: what Ray reserves for a rank, and how many threads it really uses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from distft.config.engines import ENGINES
from distft.config.method import at_once
from distft.config.recipe import Recipe
from distft.config.roles import phases
from distft.planning.hardware import Hardware
from distft.planning.placement_plan import Arrangement, Span, node_kinds

# Of every core this part stays for the data worker, so that it finds room however full the node is.
DATA_WORKER_CPUS = 0.04
# Beyond this many threads a rank whose arithmetic is on a GPU gains nothing.
MOST_GPU_THREADS = 16


@dataclass(frozen=True)
class SlotShare:
    """What Ray reserves for one slot, and for the data worker."""

    cpus: float
    gpus: float
    data_worker_cpus: float

    @staticmethod
    def divided(amount: float, parts: int) -> float:
        """A part of it, rounded down to Ray's resolution, so that the parts never exceed the whole."""
        return int(amount / parts * 10_000) / 10_000


def slot_share(hardware: Hardware) -> SlotShare:
    """On CPU nodes a slot is 1/ranks_per_cpu of a core less the data worker's part; on GPU nodes its GPU's cores."""
    if hardware.gpus == 0:
        return SlotShare(SlotShare.divided(1 - DATA_WORKER_CPUS, hardware.ranks_per_cpu), 0.0, DATA_WORKER_CPUS)
    whole = (hardware.cpus - 1) // hardware.gpus
    if whole >= 1:
        return SlotShare(float(whole), 1.0, 1.0)
    return SlotShare(SlotShare.divided(hardware.cpus - DATA_WORKER_CPUS, hardware.gpus), 1.0, DATA_WORKER_CPUS)


def threads(recipe: Recipe, group: str, arrangement: Arrangement, placed: Mapping[str, Sequence[Span]],
            hardware: Hardware) -> int:  # fmt: skip
    """Threads of a rank: the cores of its node over the ranks that compute at the same time on it, at least 1.

    Counted in the busiest phase that the group takes part in and on the busiest of its nodes: on CPUs too
    many threads cost far more than too few. Groups that take turns on the same slots count once.
    """
    if hardware.gpus:
        per_gpu = hardware.cpus // hardware.gpus
        return max(1, min(MOST_GPU_THREADS, per_gpu))
    own = {role for role, its in arrangement.group_of.items() if its == group}
    kinds = [kind.ranks for kind in node_kinds(placed) if arrangement.set_of[group] in kind.ranks]
    busiest = 1
    for phase in at_once(phases(recipe)):
        at_work = {*phase, ENGINES} if recipe.rollout.overlap else phase
        if own.isdisjoint(at_work):
            continue
        active = {arrangement.set_of[arrangement.group_of[role]] for role in at_work if role in arrangement.group_of}
        busiest = max(busiest, *(sum(ranks.get(root, 0) for root in active) for ranks in kinds))
    return max(1, hardware.cpus // busiest)
