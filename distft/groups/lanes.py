"""Who may use a set of devices when: calls that share one follow each other, and those sleep that must.

A *lane* is the calls of one ``together`` on one device set, in the order given. Different lanes run
at once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from distft.groups.dispatch import Verb

PARTS = ("weights", "states")


def lanes(device_sets: Sequence[str]) -> dict[str, deque[int]]:
    """For calls on these device sets: the positions of each set's calls, in order."""
    found: dict[str, deque[int]] = {}
    for position, device_set in enumerate(device_sets):
        found.setdefault(device_set, deque()).append(position)
    return found


@dataclass(frozen=True)
class Move:
    """What must come before a verb: ``role`` goes to "sleep" or "wake"s, with these parts of what it holds."""

    role: str
    verb: str
    parts: tuple[str, ...]


class Devices:
    """Which groups hold what on the devices of a set: ``weights``, and ``states`` that only a step needs. A group holds
    both from its first verb on.

    ``beside``: for each group the others of its set that may be awake while it works, as the plan has it; those of
    ``resting`` keep their weights.
    """

    def __init__(
        self,
        device_set_of: Mapping[str, str],
        beside: Mapping[str, Sequence[str]],
        resting: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        self.device_set_of, self._beside, self._resting = dict(device_set_of), dict(beside), dict(resting or {})
        self._here: dict[str, tuple[str, ...]] = {}

    def steps_before(self, role: str, verb: Verb) -> list[Move]:
        """What must come before ``role`` may run ``verb``."""
        if not verb.on_device:
            return []
        moves = []
        for other, device_set in self.device_set_of.items():
            if device_set != self.device_set_of[role] or other == role:
                continue
            leaving = tuple(part for part in self._here.get(other, ()) if part not in self._staying(role, other))
            if leaving:
                moves.append(Move(other, "sleep", leaving))
        missing = tuple(part for part in _needed(verb) if part not in self._here.get(role, PARTS))
        return [*moves, Move(role, "wake", missing)] if missing else moves

    def ran(self, role: str, name: str, verb: Verb, parts: Sequence[str] = PARTS) -> None:
        """Takes note that a verb has run."""
        here = self._here.get(role, ())
        if name == "sleep":
            self._here[role] = tuple(part for part in here if part not in parts)
        elif name == "wake":
            self._here[role] = tuple(part for part in PARTS if part in (*here, *parts))
        elif verb.on_device and role not in self._here:
            self._here[role] = PARTS

    def _staying(self, role: str, other: str) -> tuple[str, ...]:
        if other in self._beside.get(role, ()):
            return PARTS
        return ("weights",) if other in self._resting.get(role, ()) else ()


def _needed(verb: Verb) -> tuple[str, ...]:
    return PARTS if verb.states else ("weights",)
