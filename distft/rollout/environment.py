"""What an environment is, and how it is asked: a class that answers a policy turn by turn and says what that is worth.

In a recipe: ``rollout: {environment: {name: "my_lab.my_env:MyEnv", max_turn_tokens: 64}}``. One object is made for
every sample, with ``rollout.environment.arguments``. It lives in the data worker's process, as reward functions do; a
server in its place: see ``http_environment``. It has to be a function of what it is told: the same row and the same
turns must get the same answers, or a run that goes on from a checkpoint is another run. Who wants chance draws it from
the row.
"""

from __future__ import annotations

import logging
import reprlib
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any, Protocol

from distft.common.addresses import found_at
from distft.common.errors import UserError
from distft.rollout.scores import is_score, plain_number

log = logging.getLogger(__name__)

_STEP = "step(text) answers (observation: text, or None where it is done; reward: a finite number; done: bool)"
_ARGUMENTS = "it is called with rollout.environment.arguments, by name"
_RESET = "reset(row) answers nothing: what the policy is to read first stands in the row's prompt"


class Environment(Protocol):
    """What ``rollout.environment.name`` names."""

    def reset(self, row: Mapping[str, Any]) -> None:
        """Begins with a row of the data: its ``prompt`` (text or messages), and the columns that no format knows."""

    def step(self, text: str) -> tuple[str | None, float, bool]:
        """What the policy said, without special tokens -> (observation, reward, done).

        The rewards of all turns are added up: that is the sample's score. The turn that a limit cut off is asked about
        as every other is, and the last one that is allowed: their observations are read by nobody.
        """
        ...


@dataclass(frozen=True)
class Turn:
    """What the policy said to an ``environment``, as turn ``number`` (counted from 1) of ``sample``, which is how
    messages name it."""

    environment: Any
    text: str
    sample: str
    number: int


@dataclass(frozen=True)
class Step:
    """What an environment answered to a turn; ``observation`` empty where it is ``done``."""

    observation: str
    reward: float
    done: bool


class Environments(Protocol):
    """Those of a run, one a sample, held to their answers and to the deadline of a step."""

    def begin(self, row: Mapping[str, Any], sample: str) -> Any:
        """A sample's, which has heard its row. Raises UserError."""
        ...

    def steps(self, turns: Sequence[Turn]) -> list[Step]:
        """What they say of a turn each. Raises UserError, naming environment, sample and turn."""
        ...


class OfClass:
    """Environments that are objects of one class, in this process. They are made and asked one after the other, in one
    thread: what they share need not stand threads, and what they hold may be bound to one, as sqlite3's connections."""

    def __init__(self, name: str, arguments: Mapping[str, Any], deadline_s: float) -> None:
        """Makes one, to see that it can be made. Raises UserError where there is no such class, it lacks a method, or
        does not take the arguments."""
        self._name, self._arguments, self._deadline_s = name, dict(arguments), deadline_s
        self._thread = _OneThread()
        self._make: Callable[..., Environment] = found_at(name)
        one = self._made(f"environment {name}")
        missing = [method for method in ("reset", "step") if not callable(getattr(one, method, None))]
        if missing:
            raise UserError(f"has no method {missing[0]}", where=f"environment {name}", hint=f"{_RESET}; {_STEP}")

    def begin(self, row: Mapping[str, Any], sample: str) -> Environment:
        """See ``Environments``."""
        where = f"environment {self._name}, {sample}"
        made = self._made(where)
        if self._within_deadline(lambda: made.reset(row), f"{where}, reset", _RESET) is not None:
            raise UserError("answered something", where=f"{where}, reset", hint=_RESET)
        return made

    def steps(self, turns: Sequence[Turn]) -> list[Step]:
        """See ``Environments``."""
        return [self._step(turn) for turn in turns]

    def _step(self, turn: Turn) -> Step:
        where = f"environment {self._name}, {turn.sample}, turn {turn.number}"
        answer = self._within_deadline(lambda: turn.environment.step(turn.text), where, _STEP)
        if not isinstance(answer, tuple) or len(answer) != 3:
            raise UserError(f"answered {reprlib.repr(answer)}", where=where, hint=_STEP)
        observation, reward, done = answer
        return step_of(observation, plain_number(reward), done, where=where, hint=_STEP)

    def _made(self, where: str) -> Environment:
        made: Environment = self._within_deadline(lambda: self._make(**self._arguments), f"{where}, made", _ARGUMENTS)
        return made

    def _within_deadline(self, call: Callable[[], Any], where: str, hint: str) -> Any:
        answer = self._thread.asked(call)
        try:
            raised = answer.exception(self._deadline_s)
        except TimeoutError:  # that of the wait: an environment's own is answered. The thread is lost: the run ends
            what = f"has not answered within {self._deadline_s:g} s"
            hint = "mend it, or raise rollout.environment.step_deadline_s"
            raise UserError(what, where=where, hint=hint) from None
        if raised is not None:
            log.error("%s", where, exc_info=raised)
            raise UserError(f"raised {type(raised).__name__}: {raised}", where=where, hint=hint) from raised
        return answer.result()


class _OneThread:
    """Runs calls one after the other, all in the same thread."""

    def __init__(self) -> None:
        self._calls: SimpleQueue[tuple[Callable[[], Any], Future[Any]]] = SimpleQueue()
        # A daemon: a call that never ends does not keep the process from ending.
        threading.Thread(target=self._run, name="environment", daemon=True).start()

    def asked(self, call: Callable[[], Any]) -> Future[Any]:
        """What the call will have answered, or raised."""
        answer: Future[Any] = Future()
        self._calls.put((call, answer))
        return answer

    def _run(self) -> None:
        while True:
            call, answer = self._calls.get()
            try:
                answer.set_result(call())
            except BaseException as error:  # SystemExit, too: it would end this thread without a word
                answer.set_exception(error)


def answer_of(row: Mapping[str, Any]) -> str:
    """The row's column ``answer``. ValueError where it has none."""
    if row.get("answer") is None:
        raise ValueError("the row has no column answer")
    return str(row["answer"])


def step_of(observation: Any, reward: Any, done: Any, *, where: str, hint: str) -> Step:
    """What an environment answered, if that is an answer. Raises UserError."""
    if isinstance(reward, bool) or not is_score(reward):
        raise UserError(f"its reward is {reprlib.repr(reward)}", where=where, hint=hint)
    if not isinstance(done, bool):
        raise UserError(f"its done is {reprlib.repr(done)}", where=where, hint=hint)
    if not isinstance(observation, str) and not (done and observation is None):
        raise UserError(f"its observation is {reprlib.repr(observation)}", where=where, hint=hint)
    return Step("" if done or observation is None else observation, float(reward), done)
