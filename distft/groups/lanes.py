"""Who may use a set of devices when: calls that share one follow each other, and those sleep that must.

A *lane* is the calls on one device set that have been started and have not ended, in their order. Different lanes run
at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from distft.common.verb import DevicePart, OnDevice, Verb, declaration

PARTS: tuple[DevicePart, ...] = ("weights", "states")
SLEEP, WAKE = declaration(OnDevice.sleep), declaration(OnDevice.wake)


@dataclass(frozen=True)
class Move:
    """What must come before a verb: ``role`` goes to sleep or wakes, with these parts of what it holds."""

    role: str
    verb: Verb
    parts: tuple[DevicePart, ...]


class Devices:
    """Which groups hold what on the devices of a set: ``weights``, and ``states`` that only a step needs. A group holds
    both from its first verb on.

    ``beside``: for each group the others of its set that may be awake while it works, as the plan has it; those of
    ``resting`` keep their weights. ``lives_with``: groups that live in another's processes, by that one; they are awake
    or asleep together.
    """

    def __init__(
        self,
        device_set_of: Mapping[str, str],
        beside: Mapping[str, Sequence[str]],
        resting: Mapping[str, Sequence[str]] | None = None,
        lives_with: Mapping[str, str] | None = None,
    ) -> None:
        self._lives_with = dict(lives_with or {})
        self.device_set_of, self._beside, self._resting = dict(device_set_of), dict(beside), dict(resting or {})
        self._here: dict[str, tuple[DevicePart, ...]] = {}

    def steps_before(self, role: str, verb: Verb) -> list[Move]:
        """What must come before ``role`` may run ``verb``."""
        if not verb.on_device:
            return []
        role, moves = self._first(role), []
        for other, device_set in self.device_set_of.items():
            if device_set != self.device_set_of[role] or other == role or other in self._lives_with:
                continue
            leaving = tuple(part for part in self._here.get(other, ()) if part not in self._staying(role, other))
            if leaving:
                moves.append(Move(other, SLEEP, leaving))
        missing = tuple(part for part in _needed(verb) if part not in self._here.get(role, PARTS))
        return [*moves, Move(role, WAKE, missing)] if missing else moves

    def ran(self, role: str, verb: Verb, parts: Sequence[DevicePart] = PARTS) -> None:
        """Takes note that a verb has run."""
        role = self._first(role)
        here = self._here.get(role, ())
        if verb == SLEEP:
            self._here[role] = tuple(part for part in here if part not in parts)
        elif verb == WAKE:
            self._here[role] = tuple(part for part in PARTS if part in (*here, *parts))
        elif verb.on_device and role not in self._here:
            self._here[role] = PARTS

    def asleep(self, role: str) -> bool:
        """Whether a group that has run has no weights on its devices."""
        return "weights" not in self._here.get(self._first(role), PARTS)

    def _first(self, role: str) -> str:
        """The group whose processes they are in which this one lives."""
        return self._lives_with.get(role, role)

    def _staying(self, role: str, other: str) -> tuple[DevicePart, ...]:
        if other in self._beside.get(role, ()):
            return PARTS
        return ("weights",) if other in self._resting.get(role, ()) else ()


def _needed(verb: Verb) -> tuple[DevicePart, ...]:
    return PARTS if verb.states else ("weights",)
