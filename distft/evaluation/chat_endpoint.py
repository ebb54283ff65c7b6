"""A judge behind an OpenAI-compatible endpoint: ``POST .../chat/completions``, several questions at once."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Final

from distft.common.errors import EnvironmentFallsShort, UserError
from distft.common.files import parse_json
from distft.rollout.json_server import JsonServer, Refused, Unanswered, all_answers

log = logging.getLogger(__name__)

CONNECTIONS: Final = 8
MAX_NEW_TOKENS: Final = 512
GIVEN_UP_AFTER: Final = 8  # questions in succession that stay without an answer: the rest are not asked
_TRIAL_S: Final = 30.0
# Of one question and no other: it is too long, or what it says is not to be answered.
_OF_A_QUESTION: Final = (400, 413, 422)
_TALK: Final = 'it is sent {"model", "messages"}, and answers {"choices": [{"message": {"content": ...}}]}'


class ChatEndpoint:
    """``url`` ends before ``/chat/completions``, ``model`` is its name there. ``deadline_s``: of each question, however
    often it is asked. ``key``: where a recipe names it. The token never leaves ``token_from``, the environment
    variable, but to that server."""

    def __init__(
        self, url: str, model: str, *, token: str | None, token_from: str | None, deadline_s: float, token_hint: str,
        key: str = "", connections: int = CONNECTIONS, max_new_tokens: int = MAX_NEW_TOKENS,
    ) -> None:  # fmt: skip
        self.name = f"{key} ({model} at {url})" if key else f"{model} at {url}"
        where = url.rstrip("/").removesuffix("/chat/completions") + "/chat/completions"
        self._server = JsonServer(where, self.name, deadline_s, token, token_from, token_hint, _TALK)
        self._deadline_s, self._connections = deadline_s, connections
        self._wanted: dict[str, Any] = {"model": model, "temperature": 0, "max_tokens": max_new_tokens}
        self._in_vain, self._counting = 0, threading.Lock()
        self._given_up = threading.Event()

    def try_out(self, question: str = "Say yes.", seconds: float = _TRIAL_S) -> str:
        """The answer to one question, so that what cannot be asked is known before any work is done. Raises UserError,
        EnvironmentFallsShort where nobody answers."""
        seconds = min(seconds, self._deadline_s)
        while True:
            try:
                answer = self._server.ask(self._body(question), time.monotonic() + seconds, threading.Event())
            except Refused as error:
                # Some models take no temperature, and a limit under another name: they have their own.
                named = [key for key in ("max_tokens", "temperature") if key in self._wanted and key in error.what]
                if error.status != 400 or not named:
                    raise
                del self._wanted[named[0]]
            except Unanswered as why:
                what = f"gave no answer within {seconds:g} s, asked {why.attempts} times: {why}"
                hint = "is it running, and reachable from here?"
                raise EnvironmentFallsShort(what, where=self.name, hint=hint) from why
            else:
                said = _content(answer)
                if said is None:
                    what = f"answered no completion: {self._server.shown(answer)}"
                    raise UserError(what, where=self.name, hint=_TALK)
                return said

    def answers_within(self, questions: Sequence[str], seconds: float) -> list[str | None]:
        """As ``answers``, for who cannot do without: all are there in so many seconds, but for what the endpoint says
        of a question alone. Raises EnvironmentFallsShort where they are not, UserError where it refuses all."""
        until, given_up = time.monotonic() + seconds, threading.Event()

        def answer(question: str) -> str | None:
            try:
                return _content(self._server.ask(self._body(question), until, given_up))
            except Refused as error:
                if error.status not in _OF_A_QUESTION:
                    raise
                log.warning("%s: a question has no answer: %s", self.name, error.what)
                return None
            except Unanswered as why:
                raise EnvironmentFallsShort(
                    f"gave no verdicts on {len(questions)} questions within {seconds:g} s, asked for one "
                    f"{why.attempts} times: {why}",
                    where=self.name,
                    hint="is it running, and reachable from here? The run goes on from its newest checkpoint",
                ) from why

        return all_answers([partial(answer, one) for one in questions], self._connections, given_up)

    def answers(self, questions: Sequence[str]) -> list[str | None]:
        """See ``Judge``."""
        with ThreadPoolExecutor(self._connections) as pool:
            try:
                return list(pool.map(self._answer, questions))
            except BaseException:  # Ctrl-C: nobody waits for what is under way
                self._given_up.set()
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def _answer(self, question: str) -> str | None:
        if self._given_up.is_set():
            return None
        until = time.monotonic() + self._deadline_s
        try:
            answer = self._server.ask(self._body(question), until, self._given_up)
        except (Unanswered, UserError) as why:
            log.warning("%s: a question has no answer: %s", self.name, why)
            self._count_in_vain()
            return None
        self._in_vain = 0
        return _content(answer)

    def _count_in_vain(self) -> None:
        with self._counting:
            self._in_vain += 1
            if self._in_vain == GIVEN_UP_AFTER:
                log.warning(
                    "%s: %d questions in succession have no answer: the rest is not asked", self.name, GIVEN_UP_AFTER
                )
                self._given_up.set()

    def _body(self, question: str) -> dict[str, Any]:
        return self._wanted | {"messages": [{"role": "user", "content": question}]}


def _content(answer: bytes) -> str | None:
    """The text of a completion; None where it holds none."""
    try:
        found = parse_json(answer)["choices"][0]["message"]["content"]
    except (ValueError, LookupError, TypeError):
        return None
    return found if isinstance(found, str) else None
