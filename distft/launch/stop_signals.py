"""Signals that ask for an end. A run stops in order, with a checkpoint; pressed a second time, at once."""

from __future__ import annotations

import os
import select
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from distft.controller.stop_flag import StopFlag


@contextmanager
def stop_on_signal() -> Iterator[StopFlag]:
    """SIGINT, SIGTERM or SIGHUP once: the flag is set, to stop after this step, with a checkpoint. Twice: at once.

    A closed terminal sends SIGHUP itself, and the shell does so again: however often it comes it is one request. Where
    it is ignored (``nohup``) it stays so. Outside the main thread no signal is listened to.
    """
    stop = StopFlag()

    def asked(number: int, _frame: Any) -> None:
        if stop.is_set():
            raise KeyboardInterrupt(signal.Signals(number).name)
        stop.set()

    def hung_up(_number: int, _frame: Any) -> None:
        stop.set()

    with heard({signal.SIGINT: asked, signal.SIGTERM: asked, signal.SIGHUP: hung_up}):
        yield stop


@contextmanager
def heard(handlers: Mapping[signal.Signals, Callable[[int, Any], None]]) -> Iterator[None]:
    """Signals go to these handlers; SIGHUP, where it is not ignored, once nothing is written to the closed terminal any
    more. Outside the main thread none is heard."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def hung_up(number: int, frame: Any) -> None:
        _leave_closed_terminal()
        handlers[signal.SIGHUP](number, frame)

    wanted = {number: hung_up if number == signal.SIGHUP else handler for number, handler in handlers.items()}
    if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:
        wanted.pop(signal.SIGHUP, None)
    former = {number: signal.signal(number, handler) for number, handler in wanted.items()}
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


def _leave_closed_terminal() -> None:
    """What would still be written to a terminal that is gone goes nowhere: each write to it would be an error."""
    poll = select.poll()
    for stream in (sys.__stdin__, sys.__stdout__, sys.__stderr__):
        if stream is not None and not stream.closed:
            poll.register(stream.fileno(), 0)
    for file, event in poll.poll(0):
        if event & select.POLLHUP and not event & select.POLLNVAL:
            nowhere = os.open(os.devnull, os.O_RDWR)
            os.dup2(nowhere, file)
            os.close(nowhere)
