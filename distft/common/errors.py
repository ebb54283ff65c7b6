"""What can go wrong, by whose hand, and with which exit status.

The exit status is part of the contract: 2 the user's input, 3 the environment, 1 a failed run
or a defect, 75 stopped on request with a checkpoint written.
"""

from __future__ import annotations

import difflib
import time
from collections.abc import Iterable
from typing import Any


class DistftError(Exception):
    """Base of all expected errors: shown as one message, never as a traceback. ``kind``: which kind of failure it is
    where a worker raises it."""

    exit_status = 1
    kind = "exception"


class UserError(DistftError):
    """The user's input is wrong: says where, what, and the nearest right thing.

    ``where`` is a dotted recipe key, ``file:line`` or a path; ``hint`` the nearest right thing.
    """

    exit_status = 2

    def __init__(self, what: str, *, where: str = "", hint: str = "") -> None:
        super().__init__(what, where, hint)
        self.what, self.where, self.hint = what, where, hint

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (type(self), self.what, self.where, self.hint))

    def __str__(self) -> str:
        text = f"{self.where}: {self.what}" if self.where else self.what
        return harmless(f"{text}\n  {self.hint}" if self.hint else text)


class EnvironmentFallsShort(UserError):
    """The input is fine but the machine has too few CPUs, GPUs, nodes or bytes."""

    exit_status = 3


class RunFailed(DistftError):
    """A run died: names role, rank, node, the last stage reached and the log to read.

    ``would_repeat``: known to come again where the same is done again. ``raised``: when, by this process's monotonic
    clock.
    """

    def __init__(self, cause: str, *, role: str = "", rank: int | None = None, node: str = "", stage: str = "",
                 log: str = "", kind: str = "failure", would_repeat: bool = False) -> None:  # fmt: skip
        super().__init__(cause, role, rank, node, stage, log, kind)
        self.cause, self.role, self.rank, self.node = cause, role, rank, node
        self.stage, self.log, self.kind, self.would_repeat = stage, log, kind, would_repeat
        self.raised = time.monotonic()
        self.hint = ""  # what to do next, where it is known

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild_run_failed, (self.cause, self._fields()))

    def because(self, cause: str) -> RunFailed:
        """The same with another cause."""
        return RunFailed(cause, **self._fields())

    def _fields(self) -> dict[str, Any]:
        return {"role": self.role, "rank": self.rank, "node": self.node, "stage": self.stage, "log": self.log,
                "kind": self.kind, "would_repeat": self.would_repeat}  # fmt: skip

    def __str__(self) -> str:
        who = self.role + (f" rank {self.rank}" if self.rank is not None else "")
        lines = [f"{who} on {self.node}: {self.cause}" if self.node else f"{who}: {self.cause}"]
        if not who:
            lines = [self.cause]
        if self.stage:
            lines.append(f"  last stage: {self.stage}")
        if self.log:
            lines.append(f"  log: {self.log}")
        if self.hint:
            lines.append(f"  {self.hint}")
        return harmless("\n".join(lines))


class StoppedOnRequest(DistftError):
    """Stopped with a checkpoint written: the same command goes on. ``cancelled``: by ``distft cancel``, so that a
    scheduler must not start it again by itself; else by a signal or a time limit.
    """

    exit_status = 75
    cancelled = False


def harmless(text: str) -> str:
    """The text as a terminal shows it and no more: characters that would move its cursor, colour it or turn its
    direction are written as escapes. Lines stay lines."""
    return "".join(one if one.isprintable() or one == "\n" else ascii(one)[1:-1] for one in text)


def nearest(word: str, known: Iterable[str]) -> str:
    """The known word closest to ``word``, or "" when none is near."""
    found = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return found[0] if found else ""


def _rebuild(kind: type[UserError], what: str, where: str, hint: str) -> UserError:
    return kind(what, where=where, hint=hint)


def _rebuild_run_failed(cause: str, fields: dict[str, Any]) -> RunFailed:
    return RunFailed(cause, **fields)
