"""How the places of an epoch are filled from several sources: pure, and resumable from a position alone.

A source without a share has a place for each of its units, and fills it with that unit in every epoch. A source with a
share s has so many places that they are s of all, whatever its size: rehearsal of old data beside new. What fills them
is a stream of its own over its units, each once in an order from (seed, source, round), before the next round begins;
the stream goes on from epoch to epoch, so that all of a large source is seen before anything of it comes twice.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from distft.common.seeding import derive
from distft.data.sampler import take


@dataclass(frozen=True)
class Epochs:
    """``sizes``: units of each source, which lie source after source. ``shares``: of each source its share of an
    epoch's places, or None; they sum up to less than 1, and some source has none."""

    sizes: tuple[int, ...]
    shares: tuple[float | None, ...]

    @cached_property
    def places(self) -> tuple[int, ...]:
        """Places of each source in an epoch: rounded shares of all, at least one; none of an empty source."""
        given = [share for share, size in zip(self.shares, self.sizes, strict=True) if share is not None and size]
        own = sum(size for share, size in zip(self.shares, self.sizes, strict=True) if share is None)
        total = own / (1 - sum(given))
        return tuple(
            size if share is None or not size else max(1, round(share * total))
            for share, size in zip(self.shares, self.sizes, strict=True)
        )

    @property
    def num_units(self) -> int:
        """Places of an epoch."""
        return sum(self.places)

    def units(self, start: int, count: int, seed: int, shuffle: bool) -> list[int]:
        """The units at ``count`` positions from ``start``, over the borders of epochs. The same however a stretch of
        positions is cut into calls."""
        visits = take(self.num_units, start, count, seed, shuffle)
        ends, begins = np.cumsum(self.places), np.cumsum([0, *self.sizes])
        sources = np.searchsorted(ends, [place for _, place in visits], side="right").tolist()
        found = []
        for (epoch, place), source in zip(visits, sources, strict=True):
            within = place - (int(ends[source]) - self.places[source])
            if self.shares[source] is not None:
                number = epoch * self.places[source] + within
                [(_, within)] = take(self.sizes[source], number, 1, derive(seed, "share", source), shuffle)
            found.append(int(begins[source]) + within)
        return found
