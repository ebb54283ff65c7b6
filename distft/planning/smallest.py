"""The fewest GPUs on which a recipe fits, for whoever has to ask for them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from distft.common.errors import UserError
from distft.config.recipe import Recipe
from distft.planning.footprint import SizeBook
from distft.planning.hardware import Hardware
from distft.planning.layout import fits

MOST_NODES = 4096


@dataclass(frozen=True)
class Smallest:
    """``gpus`` of each of ``nodes`` nodes are enough."""

    nodes: int
    gpus: int

    @property
    def total(self) -> int:
        """GPUs in all."""
        return self.nodes * self.gpus


def smallest_that_fits(recipe: Recipe, hardware: Hardware, book: SizeBook | None = None) -> Smallest | None:
    """The smallest part of a node (1, 2, 4, ... GPUs, with its part of cores and memory), else the fewest whole nodes.

    None on a CPU cluster, and where it fits no number of nodes.
    """
    book = book or SizeBook()
    if not hardware.gpus:
        return None

    def enough(nodes: int, gpus: int) -> bool:
        part = replace(hardware, nodes=nodes, gpus=gpus, memory=hardware.memory * gpus // hardware.gpus)
        try:
            return fits(recipe, part, book)
        except UserError:
            return False

    gpus = 1
    while gpus < hardware.gpus:
        if enough(1, gpus):
            return Smallest(1, gpus)
        gpus *= 2
    nodes = fewest(lambda nodes: enough(nodes, hardware.gpus), 1, MOST_NODES)
    return Smallest(nodes, hardware.gpus) if nodes else None


def fewest(enough: Callable[[int], bool], low: int, most: int) -> int:
    """The smallest number from ``low`` on that is enough, by doubling, then halving the gap; 0: none up to ``most``."""
    if enough(low):
        return low
    high = min(2 * low, most)
    while not enough(high):
        if high >= most:
            return 0
        low, high = high, min(2 * high, most)
    while high - low > 1:
        middle = (low + high) // 2
        if enough(middle):
            high = middle
        else:
            low = middle
    return high
