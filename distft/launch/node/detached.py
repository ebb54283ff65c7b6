"""The launcher steps out of the task that Slurm started, and the task only passes on what it hears.

Where Slurm follows processes by their parents (proctrack/linuxproc) it sends SIGTERM to all of them: Ray and the
driver would be hit beside the launcher, and nothing could be saved. And at its SIGKILL nobody would be left to
clear the node. So the launcher is made a child of init. It knows that the task has ended by a pipe that closes, and
then clears the node away at once. (Where Slurm follows by cgroups, all of this changes nothing.)
"""

from __future__ import annotations

import os
import select
import signal
import sys
from collections.abc import Callable

_PASSED_ON = (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT)


class Life:
    """The other end of the task's life: a pipe on which nothing is ever written."""

    def __init__(self, descriptor: int) -> None:
        self._poll = select.poll()
        self._poll.register(descriptor, select.POLLIN)

    @property
    def over(self) -> bool:
        """Whether the task has ended, by SIGKILL that is."""
        return bool(self._poll.poll(0))


def run_detached(work: Callable[[Life, Callable[[], None]], int]) -> int:
    """Runs ``work`` in a process of its own outside of this one's family; returns what it returns, 1 where it died.

    ``work`` is given the task's life, and what it must call once it listens to signals: those that came before
    are passed on then. To be called while there is one thread. Raises OSError where no process can be made.
    """
    waiting: list[int] = []
    launcher: list[int] = []

    def heard(number: int, _frame: object) -> None:
        if launcher:
            _send(launcher[0], number)
        else:
            waiting.append(number)

    for number in _PASSED_ON:
        signal.signal(number, heard)
    (life, living), (answers, answering) = os.pipe(), os.pipe()
    middle = os.fork()
    if middle == 0:
        os.setsid()
        if os.fork():
            os._exit(0)
        os.close(living)
        os.close(answers)
        _as_launcher(work, Life(life), answering)
    os.waitpid(middle, 0)
    os.close(life)
    os.close(answering)
    with os.fdopen(answers) as said:
        listening = said.readline().strip()
        if listening.isdecimal():
            launcher.append(int(listening))
            for early in waiting:
                _send(launcher[0], early)
        status = said.readline().strip()
    return int(status) if status.isdecimal() else 1


def _as_launcher(work: Callable[[Life, Callable[[], None]], int], life: Life, answering: int) -> None:
    """Never returns: what lies behind on the stack is the task's."""
    status = 1
    try:
        status = work(life, lambda: _say(answering, os.getpid()))
        _say(answering, status)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(status)


def _say(answering: int, number: int) -> None:
    try:
        os.write(answering, f"{number}\n".encode())
    except OSError:  # the task is no more
        return


def _send(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:  # it has just ended
        return
