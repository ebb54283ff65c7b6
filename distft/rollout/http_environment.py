"""An environment that is a server: it is told all that a sample's has heard, and answers the last turn.

A request is ``POST`` of the JSON object ``{"arguments": {...}, "row": {...}, "turns": ["first", ...]}``: what the
recipe says, the row as ``reset`` gets it, and all that the policy has said in this sample so far. An answer is
``{"observation": "text", "reward": 0.5, "done": false}``, as ``step`` returns it, to the last turn alone. So the server
has to keep nothing, and a request that was lost is the same when it is sent again (when that is: see JsonServer), also
by a run that goes on from a checkpoint.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Final

from distft.common.errors import EnvironmentFallsShort, UserError
from distft.common.files import parse_json
from distft.config.training import EnvironmentServer
from distft.rollout.environment import Step, Turn, step_of
from distft.rollout.json_server import JsonServer, Unanswered, all_answers

KEY: Final = "rollout.environment.http"
_ANSWERS: Final = (
    "it is sent arguments, row and turns, and answers "
    '{"observation": text, or null where it is done, "reward": a finite number, "done": true or false}'
)


@dataclass(frozen=True)
class _Heard:
    row: Mapping[str, Any]
    turns: list[str] = field(default_factory=list)


class OfServer:
    """See ``environment.Environments``; ``connections`` requests are under way at once."""

    def __init__(self, server: EnvironmentServer, arguments: Mapping[str, Any], deadline_s: float) -> None:
        """Raises UserError where its token is not there."""
        self._server, self._connections = JsonServer.of(server, KEY, _ANSWERS), server.connections
        self._arguments, self._deadline_s = dict(arguments), deadline_s

    def begin(self, row: Mapping[str, Any], sample: str) -> _Heard:  # noqa: ARG002 - nothing is asked yet
        """Asks nothing: the row is in every request."""
        return _Heard(row)

    def steps(self, turns: Sequence[Turn]) -> list[Step]:
        """Raises EnvironmentFallsShort where there is no answer within the deadline of a step, UserError for an answer
        that is none."""
        given_up = threading.Event()
        return all_answers([partial(self._step, turn, given_up) for turn in turns], self._connections, given_up)

    def _step(self, turn: Turn, given_up: threading.Event) -> Step:
        heard: _Heard = turn.environment
        heard.turns.append(turn.text)
        server = replace(self._server, where=f"{self._server.where}, {turn.sample}, turn {turn.number}")
        body = {"arguments": self._arguments, "row": heard.row, "turns": heard.turns}
        try:
            answer = server.ask(body, time.monotonic() + self._deadline_s, given_up)
        except Unanswered as why:
            raise EnvironmentFallsShort(
                f"has not answered within {self._deadline_s:g} s, asked {why.attempts} times: {why}",
                where=server.where,
                hint="is it running, and reachable from here? rollout.environment.step_deadline_s is how long it may "
                "take; the run goes on from its newest checkpoint",
            ) from why
        try:
            found = parse_json(answer)
        except ValueError:
            raise UserError(f"answered no JSON: {server.shown(answer)}", where=server.where, hint=_ANSWERS) from None
        if not isinstance(found, dict):
            raise UserError(f"answered no object: {server.shown(answer)}", where=server.where, hint=_ANSWERS)
        said = [found.get(name) for name in ("observation", "reward", "done")]
        return step_of(*said, where=server.where, hint=_ANSWERS)
