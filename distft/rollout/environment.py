"""What an environment is, and how it is asked: a class that answers a policy turn by turn and says what that is worth.

In a recipe: ``rollout: {environment: {name: "my_lab.my_env:MyEnv", max_turn_tokens: 64}}``. One object is made for
every sample, with ``rollout.environment.arguments``. It lives in the data worker's process, as reward functions do. It
has to be a function of what it is told: the same row and the same turns must get the same answers, or a run that goes
on from a checkpoint is another run. Who wants chance draws it from the row.
"""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from distft.common.addresses import found_at
from distft.common.errors import UserError

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
class Step:
    """What an environment answered to a turn; ``observation`` empty where it is ``done``."""

    observation: str
    reward: float
    done: bool


class Asked:
    """Environments of one class, held to their answers and to the deadline of a step."""

    def __init__(self, name: str, arguments: Mapping[str, Any], deadline_s: float) -> None:
        """Makes one, to see that it can be made. Raises UserError where there is no such class, it lacks a method, or
        does not take the arguments."""
        self._name, self._arguments, self._deadline_s = name, dict(arguments), deadline_s
        self._make: Callable[..., Environment] = found_at(name)
        one = self.make()
        missing = [method for method in ("reset", "step") if not callable(getattr(one, method, None))]
        if missing:
            raise UserError(f"has no method {missing[0]}", where=f"environment {name}", hint=f"{_RESET}; {_STEP}")

    def make(self) -> Environment:
        """A new one. Raises UserError for what its class raises."""
        try:
            return self._make(**self._arguments)
        except Exception as error:
            log.exception("environment %s", self._name)
            what = f"cannot be made: {type(error).__name__}: {error}"
            raise UserError(what, where=f"environment {self._name}", hint=_ARGUMENTS) from error

    def reset(self, environment: Environment, row: Mapping[str, Any], sample: str) -> None:
        """Begins a sample, known as ``sample`` in messages. Raises UserError as ``step``."""
        where = f"environment {self._name}, {sample}, reset"
        if self._within_deadline(lambda: environment.reset(row), where, _RESET) is not None:
            raise UserError("answered something", where=where, hint=_RESET)

    def step(self, environment: Environment, text: str, sample: str, turn: int) -> Step:
        """What it says of the policy's turn, counted from 1. Raises UserError, naming environment, sample and turn, for
        an exception in it, another answer, or none within the deadline."""
        where = f"environment {self._name}, {sample}, turn {turn}"
        answer = self._within_deadline(lambda: environment.step(text), where, _STEP)
        if not isinstance(answer, tuple) or len(answer) != 3:
            raise UserError(f"answered {_shown(answer)}", where=where, hint=_STEP)
        observation, reward, done = answer
        reward = reward.item() if hasattr(reward, "item") else reward  # scalars of numpy and torch
        if isinstance(reward, bool) or not isinstance(reward, int | float) or not _finite(reward):
            raise UserError(f"its reward is {_shown(reward)}", where=where, hint=_STEP)
        if not isinstance(done, bool):
            raise UserError(f"its done is {_shown(done)}", where=where, hint=_STEP)
        if not isinstance(observation, str) and not (done and observation is None):
            raise UserError(f"its observation is {_shown(observation)}", where=where, hint=_STEP)
        return Step("" if done or observation is None else observation, float(reward), done)

    def _within_deadline(self, call: Callable[[], Any], where: str, hint: str) -> Any:
        found: list[Any] = []
        raised: list[Exception] = []

        def run() -> None:
            try:
                found.append(call())
            except Exception as error:
                log.exception("%s", where)
                raised.append(error)

        # A daemon: one that never answers does not keep the process from ending.
        thread = threading.Thread(target=run, name="environment", daemon=True)
        thread.start()
        thread.join(self._deadline_s)
        if raised:
            raise UserError(f"raised {type(raised[0]).__name__}: {raised[0]}", where=where, hint=hint) from raised[0]
        if not found:
            what = f"has not answered within {self._deadline_s:g} s"
            raise UserError(what, where=where, hint="mend it, or raise rollout.environment.step_deadline_s")
        return found[0]


def _finite(number: int | float) -> bool:
    try:
        return math.isfinite(number)
    except OverflowError:  # an int beyond all floats
        return False


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
