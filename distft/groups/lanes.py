"""Who may use a set of devices when: calls that share one follow each other, and those sleep that must.

A *lane* is the calls of one ``together`` on one device set, in the order given. Different lanes run
at once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence

from distft.groups.dispatch import Verb


def lanes(device_sets: Sequence[str]) -> dict[str, deque[int]]:
    """For calls on these device sets: the positions of each set's calls, in order."""
    found: dict[str, deque[int]] = {}
    for position, device_set in enumerate(device_sets):
        found.setdefault(device_set, deque()).append(position)
    return found


class Devices:
    """Which groups hold memory on the devices of a set. A group does from its first verb on them.

    ``beside``: for each group the others of its set that may be awake while it works, as the plan has it.
    """

    def __init__(self, device_set_of: Mapping[str, str], beside: Mapping[str, Sequence[str]]) -> None:
        self.device_set_of, self._beside = dict(device_set_of), dict(beside)
        self._awake: set[str] = set()
        self._asleep: set[str] = set()

    def steps_before(self, role: str, verb: Verb) -> list[tuple[str, str]]:
        """The (role, "sleep" | "wake") that must come before ``role`` may run ``verb``."""
        if not verb.on_device:
            return []
        steps = [
            (other, "sleep")
            for other, device_set in self.device_set_of.items()
            if device_set == self.device_set_of[role]
            and other in self._awake
            and other not in (role, *self._beside.get(role, ()))
        ]
        if role in self._asleep:
            steps.append((role, "wake"))
        return steps

    def ran(self, role: str, name: str, verb: Verb) -> None:
        """Takes note that a verb has run."""
        if name == "sleep":
            self._awake.discard(role)
            self._asleep.add(role)
        elif name == "wake" or verb.on_device:
            self._asleep.discard(role)
            self._awake.add(role)
