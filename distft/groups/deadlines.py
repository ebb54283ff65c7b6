"""How long a call may take: from what it took before, so that silence is told from work."""

from __future__ import annotations

from dataclasses import dataclass

from distft.common.verb import Verb

STACKS_AT = 0.9  # share of a deadline after which a rank writes its stacks to its log


@dataclass(frozen=True)
class Deadlines:
    """Seconds. A call may take ``max(floor_s, factor * longest of its kind so far)``; ``start_s`` is
    for starting workers and for calls that load models, of which there is no experience yet."""

    floor_s: float = 600.0
    factor: float = 20.0
    start_s: float = 900.0


class DeadlineBook:
    """The longest duration seen of each verb of each role."""

    def __init__(self, deadlines: Deadlines) -> None:
        self.deadlines = deadlines
        self._longest: dict[tuple[str, str], float] = {}

    def deadline(self, role: str, verb: Verb) -> float:
        """Seconds that the next call may take."""
        rule = self.deadlines
        longest = self._longest.get((role, verb.name))
        if verb.deadline == "setup" or (verb.deadline == "long" and longest is None):
            return max(rule.start_s, rule.floor_s, rule.factor * (longest or 0.0))
        return max(rule.floor_s, rule.factor * (longest or 0.0))

    def saw(self, role: str, verb: Verb, seconds: float) -> None:
        """Takes a finished call into account."""
        self._longest[role, verb.name] = max(seconds, self._longest.get((role, verb.name), 0.0))
