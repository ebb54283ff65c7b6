"""Rewards asked of a server, which is held to its word: there is a score for every completion, or the run ends.

A request is ``POST`` of the JSON object ``{"prompts": [...], "completions": [...], "columns": {name: [...]}}``, an
answer ``{"scores": [...]}`` with a finite number for each completion. What is asked again, and when: see JsonServer.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from distft.common.errors import EnvironmentFallsShort, UserError
from distft.common.files import parse_json
from distft.config.reward_servers import HttpReward
from distft.rollout.json_server import JsonServer, Unanswered, all_answers
from distft.rollout.scores import finite_scores

_ANSWERS = 'it is sent prompts, completions and columns, and answers {"scores": [a finite number for each completion]}'


def scores_by_http(
    server: HttpReward, where: str, prompts: Sequence[Any], completions: Sequence[str], columns: Mapping[str, Any]
) -> list[float]:
    """A score for each completion, in batches of ``server.batch_size``. ``where``: its key in the recipe.

    Raises EnvironmentFallsShort where it gives none before its deadline, UserError for an answer that is none.
    """
    asked = JsonServer.of(server, where, _ANSWERS)
    asking = _Asking(asked, server.deadline, time.monotonic() + server.deadline)
    starts = range(0, len(completions), server.batch_size)
    rows = [slice(start, start + server.batch_size) for start in starts]
    bodies = [
        {"prompts": prompts[one], "completions": completions[one], "columns": {n: c[one] for n, c in columns.items()}}
        for one in rows
    ]
    found = all_answers([partial(asking.scores, body) for body in bodies], server.connections, asking.given_up)
    return [score for one in found for score in one]


@dataclass(frozen=True)
class _Asking:
    """The requests of one iteration to a server. ``until``: by this process's monotonic clock."""

    server: JsonServer
    deadline_s: float
    until: float
    given_up: threading.Event = field(default_factory=threading.Event)

    def scores(self, body: Mapping[str, Any]) -> list[float]:
        """Those of one batch, asked until they are there."""
        try:
            answer = self.server.ask(body, self.until, self.given_up)
        except Unanswered as why:
            raise EnvironmentFallsShort(
                f"gave no scores within {self.deadline_s:g} s, asked {why.attempts} times: {why}",
                where=self.server.where,
                hint="is it running, and reachable from here? The run goes on from its newest checkpoint",
            ) from why
        return self._read(answer, len(body["completions"]))

    def _read(self, answer: bytes, count: int) -> list[float]:
        """The scores of an answer. Raises UserError for what is none."""
        try:
            found = parse_json(answer)
        except ValueError:
            raise self._wrong(f"answered no JSON: {self.server.shown(answer)}") from None
        scores = found.get("scores") if isinstance(found, dict) else None
        if not isinstance(scores, list):
            raise self._wrong(f"answered no list of scores: {self.server.shown(answer)}")
        for index, score in enumerate(scores):
            if isinstance(score, bool):  # a number in Python, but not in JSON
                raise self._wrong(f"answered {score!r} for completion {index}")
        return finite_scores(scores, count, where=self.server.where, hint=_ANSWERS)

    def _wrong(self, what: str) -> UserError:
        return UserError(what, where=self.server.where, hint=_ANSWERS)
