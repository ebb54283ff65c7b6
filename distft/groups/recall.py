"""Of what a group was asked, what a worker that takes a dead one's place must be asked again. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from distft.common.verb import Verb
from distft.groups.handles import Call


@dataclass(frozen=True)
class Told:
    """A call, and what it reported by rank: a successor must report the same. ``renew``: does it again, in place of the
    call, and says whether that was possible."""

    call: Call[Any]
    reports: Sequence[Any]
    renew: Callable[[], bool] | None = None


@dataclass
class Recall:
    """The calls of one group that leave something in its workers; see ``Verb.recalled``."""

    told: list[Told] = field(default_factory=list)

    def note(self, call: Call[Any], reports: Sequence[Any]) -> None:
        """Takes a call that has ended into account."""
        kind, name = call.verb.recalled, call.verb.name
        if kind in ("begins", "ends"):
            self.told = [one for one in self.told if one.call.verb.recalled not in ("begins", "follows")]
        elif kind in ("latest", "renewed"):
            self.told = [one for one in self.told if one.call.verb.name != name]
        if kind not in ("no", "ends"):
            self.told.append(Told(call, reports, call.renew))

    def without(self, verb: Verb | None) -> list[Told]:
        """In their order; without the latest of a verb that a successor is asked for anyway."""
        asked_anyway = verb is not None and verb.recalled in ("latest", "renewed")
        return [one for one in self.told if not (asked_anyway and verb is not None and one.call.verb.name == verb.name)]
