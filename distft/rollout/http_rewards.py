"""Rewards asked of a server, which is held to its word: there is a score for every completion, or the run ends.

A request is ``POST`` of the JSON object ``{"prompts": [...], "completions": [...], "columns": {name: [...]}}``, an
answer ``{"scores": [...]}`` with a finite number for each completion. What may pass is asked again, with pauses that
double: no connection, no answer in time, and the statuses 408, 425, 429 and 5xx. Everything else is an error at once.
"""

from __future__ import annotations

import http.client
import json
import logging
import os
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from distft.common.errors import EnvironmentFallsShort, UserError
from distft.config.models import HttpReward
from distft.config.redact import HIDDEN
from distft.rollout.scores import finite_scores

log = logging.getLogger(__name__)

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 30.0
_PASSING = (408, 425, 429)
_ANSWERS = 'it is sent prompts, completions and columns, and answers {"scores": [a finite number for each completion]}'
_SHOWN = 200  # characters of an answer that are quoted


class _NotYet(Exception):
    """Why a request is worth asking again."""


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """The token is for the server that the recipe names."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


_OPENER = urllib.request.build_opener(_NoRedirect)


def token_of(server: HttpReward, where: str) -> str | None:
    """The value of ``token_env``; None where none is asked for. Raises UserError where it is not set, or is nothing
    that a header can hold: that error would quote it."""
    if server.token_env is None:
        return None
    token = os.environ.get(server.token_env, "").strip()
    if not token:
        name = server.token_env
        raise UserError(
            f"the environment variable {name} is not set",
            where=f"{where}.token_env",
            hint=f"export {name}=...; on a cluster also environment: {{{name}: null}} in the cluster file",
        )
    if not (token.isascii() and token.isprintable()):
        raise UserError(
            f"the environment variable {server.token_env} holds no token: a line break, or what is not printable ASCII",
            where=f"{where}.token_env",
            hint="is it the token alone, in one line?",
        )
    return token


def scores_by_http(
    server: HttpReward, where: str, prompts: Sequence[Any], completions: Sequence[str], columns: Mapping[str, Any]
) -> list[float]:
    """A score for each completion, in batches of ``server.batch_size``. ``where``: its key in the recipe.

    Raises EnvironmentFallsShort where it gives none before its deadline, UserError for an answer that is none.
    """
    asking = _Asking(server, f"{where} ({server.url})", token_of(server, where), time.monotonic() + server.deadline)
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

    server: HttpReward
    where: str
    token: str | None
    until: float
    given_up: threading.Event = field(default_factory=threading.Event)

    def scores(self, body: Mapping[str, Any]) -> list[float]:
        """Those of one batch, asked until they are there."""
        pause, attempts = FIRST_PAUSE_S, 0
        while True:
            attempts += 1
            try:
                return self._read(self._answer(body), len(body["completions"]))
            except _NotYet as why:
                if self.given_up.is_set() or time.monotonic() + pause >= self.until:
                    raise EnvironmentFallsShort(
                        f"gave no scores within {self.server.deadline:g} s, asked {attempts} times: {why}",
                        where=self.where,
                        hint="is it running, and reachable from here? The run goes on from its newest checkpoint",
                    ) from why
                log.warning("%s: %s; asked again in %g s", self.where, why, pause)
            self.given_up.wait(pause)
            pause = min(2 * pause, LONGEST_PAUSE_S)

    def _answer(self, body: Mapping[str, Any]) -> bytes:
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if self.token is not None:
            headers["Authorization"] = f"Bearer {self.token}"
        content = json.dumps(body, default=str).encode()
        request = urllib.request.Request(self.server.url, content, headers, method="POST")
        left = max(0.01, self.until - time.monotonic())
        try:
            with _OPENER.open(request, timeout=min(self.server.timeout, left)) as response:
                return self._whole(response)
        except urllib.error.HTTPError as error:
            said = self._said(error)
            if error.code in _PASSING or error.code >= 500:
                raise _NotYet(f"status {error.code}: {said}") from None
            raise UserError(f"status {error.code}: {said}", where=self.where, hint=self._refused(error.code)) from None
        except urllib.error.URLError as error:
            raise _NotYet(str(error.reason)) from None
        except (http.client.InvalidURL, UnicodeError) as error:  # a host's name that is none is a UnicodeError
            raise UserError(f"cannot be asked: {error}", where=self.where, hint="is the url right?") from None
        except (OSError, http.client.HTTPException) as error:
            raise _NotYet(f"{type(error).__name__}: {error}") from None

    def _whole(self, response: Any) -> bytes:
        """The body, if all of it is there in time: a timeout is of each piece only, and the end of a connection ends
        the pieces without an error."""
        until = min(self.until, time.monotonic() + self.server.timeout)
        pieces = []
        while piece := response.read1(1 << 16):
            pieces.append(piece)
            if time.monotonic() > until:
                raise TimeoutError("the answer took too long")
        if response.length:  # what is still to come
            raise http.client.IncompleteRead(b"".join(pieces), response.length)
        return b"".join(pieces)

    def _said(self, error: urllib.error.HTTPError) -> str:
        """What stands in a refusal, if it arrived."""
        with error, suppress(OSError, http.client.HTTPException):
            return self._shown(error.read(4 * _SHOWN))
        return "nothing"

    def _read(self, answer: bytes, count: int) -> list[float]:
        """The scores of an answer. Raises UserError for what is none."""
        try:
            found = json.loads(answer)
        except ValueError:
            raise self._wrong(f"answered no JSON: {self._shown(answer)}") from None
        scores = found.get("scores") if isinstance(found, dict) else None
        if not isinstance(scores, list):
            raise self._wrong(f"answered no list of scores: {self._shown(answer)}")
        for index, score in enumerate(scores):
            if isinstance(score, bool):  # a number in Python, but not in JSON
                raise self._wrong(f"answered {score!r} for completion {index}")
        return finite_scores(scores, count, where=self.where, hint=_ANSWERS)

    def _wrong(self, what: str) -> UserError:
        return UserError(what, where=self.where, hint=_ANSWERS)

    def _refused(self, status: int) -> str:
        if status in (401, 403):
            name = self.server.token_env
            return f"is the token in {name} the right one?" if name else "does it want a token? Name it: token_env: ..."
        return "is the path of the url right?" if status in (404, 405) else _ANSWERS

    def _shown(self, answer: bytes) -> str:
        """The beginning of an answer, without the token, should the server have said it."""
        text = " ".join(answer.decode(errors="replace").split())
        return (text.replace(self.token, HIDDEN) if self.token else text)[:_SHOWN] or "nothing"
