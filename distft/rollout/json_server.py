"""JSON asked of a server by POST: again where that may help, within a deadline; its token goes nowhere else.

What may pass is asked again, with pauses that double, or as long as the server's ``Retry-After`` says: no connection,
no answer in time, and the statuses 408, 425, 429 and 5xx. Everything else is an error at once.
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
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

from distft.common.errors import UserError
from distft.config.http_server import HttpServer
from distft.config.redact import HIDDEN

log = logging.getLogger(__name__)

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 30.0
_PASSING = (408, 425, 429)
_SHOWN = 200  # characters of an answer that are quoted

_T = TypeVar("_T")


class Unanswered(Exception):
    """No answer before the deadline: why not, and how often it was asked."""

    def __init__(self, why: str, attempts: int) -> None:
        super().__init__(why)
        self.attempts = attempts


class Refused(UserError):
    """The server will not answer this request, whenever it is asked. ``status``: of HTTP."""

    status = 0


class _NotYet(Exception):
    """Why a request is worth asking again, and the seconds that the server asks to wait."""

    def __init__(self, why: str, wait_s: float = 0.0) -> None:
        super().__init__(why)
        self.wait_s = wait_s


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """The token is for the server that was named."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


_OPENER = urllib.request.build_opener(_NoRedirect)


def token_in(variable: str, where: str, hint: str) -> str:
    """The value of an environment variable, as a token. Raises UserError where it is not set, or is nothing that a
    header can hold: that error would quote it. ``hint``: what else to do than to set it."""
    token = os.environ.get(variable, "").strip()
    if not token:
        raise UserError(f"the environment variable {variable} is not set", where=where, hint=hint)
    if not (token.isascii() and token.isprintable()):
        raise UserError(
            f"the environment variable {variable} holds no token: a line break, or what is not printable ASCII",
            where=where,
            hint="is it the token alone, in one line?",
        )
    return token


def token_of(server: HttpServer, where: str) -> str | None:
    """The value of ``token_env``; None where none is asked for. Raises UserError, as ``token_in``."""
    if server.token_env is None:
        return None
    name = server.token_env
    hint = f"export {name}=...; on a cluster also environment: {{{name}: null}} in the cluster file"
    return token_in(name, f"{where}.token_env", hint)


@dataclass(frozen=True)
class JsonServer:
    """A server. ``where``: how errors name it; ``timeout_s``: of one request; ``token_from``: the variable that holds
    the token; ``token_hint``: how one is named; ``talk``: what it is sent, and answers."""

    url: str
    where: str
    timeout_s: float
    token: str | None
    token_from: str | None
    token_hint: str
    talk: str

    @classmethod
    def of(cls, server: HttpServer, key: str, talk: str) -> JsonServer:
        """The one that a recipe names at a key. Raises UserError where its token is not there."""
        hint = "does it want a token? Name it: token_env: ..."
        named, token = f"{key} ({server.url})", token_of(server, key)
        return cls(server.url, named, server.timeout, token, server.token_env, hint, talk)

    def ask(self, body: Mapping[str, Any], until: float, given_up: threading.Event) -> bytes:
        """Its answer to one request, asked until it is there, ``until`` by this process's monotonic clock, or somebody
        has given up. Raises Unanswered, or Refused."""
        pause, attempts = FIRST_PAUSE_S, 0
        while True:
            attempts += 1
            try:
                return self._answer(body, until)
            except _NotYet as why:
                rest = max(pause, why.wait_s)
                if given_up.is_set() or time.monotonic() + rest >= until:
                    raise Unanswered(str(why), attempts) from why
                log.warning("%s: %s; asked again in %g s", self.where, why, rest)
            given_up.wait(rest)
            pause = min(2 * pause, LONGEST_PAUSE_S)

    def shown(self, answer: bytes) -> str:
        """The beginning of an answer, without the token, should the server have said it."""
        text = " ".join(answer.decode(errors="replace").split())
        return (text.replace(self.token, HIDDEN) if self.token else text)[:_SHOWN] or "nothing"

    def _answer(self, body: Mapping[str, Any], until: float) -> bytes:
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if self.token is not None:
            headers["Authorization"] = f"Bearer {self.token}"
        content = json.dumps(body, default=str).encode()
        left = max(0.01, until - time.monotonic())
        try:
            request = urllib.request.Request(self.url, content, headers, method="POST")
            with _OPENER.open(request, timeout=min(self.timeout_s, left)) as response:
                return self._whole(response, until)
        except urllib.error.HTTPError as error:
            said = self._said(error)
            if error.code in _PASSING or error.code >= 500:
                asked = error.headers.get("Retry-After", "")
                raise _NotYet(f"status {error.code}: {said}", float(asked) if asked.isdecimal() else 0.0) from None
            refused = Refused(f"status {error.code}: {said}", where=self.where, hint=self._hint(error.code))
            refused.status = error.code
            raise refused from None
        except urllib.error.URLError as error:
            raise _NotYet(str(error.reason)) from None
        except (http.client.InvalidURL, ValueError) as error:  # a UnicodeError of a host's name is a ValueError
            raise UserError(f"cannot be asked: {error}", where=self.where, hint="is the url right?") from None
        except (OSError, http.client.HTTPException) as error:
            raise _NotYet(f"{type(error).__name__}: {error}") from None

    def _whole(self, response: Any, until: float) -> bytes:
        """The body, if all of it is there in time: a timeout is of each piece only, and the end of a connection ends
        the pieces without an error."""
        until = min(until, time.monotonic() + self.timeout_s)
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
            return self.shown(error.read(4 * _SHOWN))
        return "nothing"

    def _hint(self, status: int) -> str:
        if status in (401, 403):
            return f"is the token in {self.token_from} the right one?" if self.token_from else self.token_hint
        return "is the path of the url right?" if status in (404, 405) else self.talk


def all_answers(asking: Sequence[Callable[[], _T]], at_once: int, given_up: threading.Event) -> list[_T]:
    """What they return, in their order, so many under way ``at_once``. The first error is raised: nobody is waited for
    then, and who still asks is told by ``given_up``."""
    pool = ThreadPoolExecutor(at_once)  # no with: its end waits for the requests under way
    try:
        found = [pool.submit(one) for one in asking]
        for one in wait(found, return_when=FIRST_EXCEPTION).done:
            one.result()
        return [one.result() for one in found]
    finally:
        given_up.set()  # nobody goes on asking for what is of no use any more
        pool.shutdown(wait=False, cancel_futures=True)
