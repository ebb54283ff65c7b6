"""Rewards asked of a server, which is held to its word: there is a score for every completion, or the run ends.

A request is ``POST`` of the JSON object ``{"prompts": [...], "completions": [...], "columns": {name: [...]}}``, an
answer ``{"scores": [...]}`` with a finite number for each completion. What is asked again, and when: see JsonServer.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Any

from distft.common.errors import EnvironmentFallsShort, UserError
from distft.common.files import parse_json
from distft.config.models import HttpReward
from distft.rollout.json_server import JsonServer, Unanswered, token_in
from distft.rollout.scores import finite_scores

_ANSWERS = 'it is sent prompts, completions and columns, and answers {"scores": [a finite number for each completion]}'


def token_of(server: HttpReward, where: str) -> str | None:
    """The value of ``token_env``; None where none is asked for. Raises UserError, as ``token_in``."""
    if server.token_env is None:
        return None
    name = server.token_env
    hint = f"export {name}=...; on a cluster also environment: {{{name}: null}} in the cluster file"
    return token_in(name, f"{where}.token_env", hint)


def scores_by_http(
    server: HttpReward, where: str, prompts: Sequence[Any], completions: Sequence[str], columns: Mapping[str, Any]
) -> list[float]:
    """A score for each completion, in batches of ``server.batch_size``. ``where``: its key in the recipe.

    Raises EnvironmentFallsShort where it gives none before its deadline, UserError for an answer that is none.
    """
    named, token = f"{where} ({server.url})", token_of(server, where)
    asked = JsonServer(
        server.url, named, server.timeout, token, server.token_env,
        "does it want a token? Name it: token_env: ...", _ANSWERS,
    )  # fmt: skip
    asking = _Asking(asked, server.deadline, time.monotonic() + server.deadline)
    starts = range(0, len(completions), server.batch_size)
    rows = [slice(start, start + server.batch_size) for start in starts]
    bodies = [
        {"prompts": prompts[one], "completions": completions[one], "columns": {n: c[one] for n, c in columns.items()}}
        for one in rows
    ]
    pool = ThreadPoolExecutor(server.connections)  # no with: its end waits for the requests under way
    try:
        found = [pool.submit(asking.scores, body) for body in bodies]
        for one in wait(found, return_when=FIRST_EXCEPTION).done:
            one.result()
        return [score for one in found for score in one.result()]
    finally:
        asking.given_up.set()  # nobody goes on asking for what is of no use any more
        pool.shutdown(wait=False, cancel_futures=True)


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
