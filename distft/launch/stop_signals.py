"""Signals that ask for an end. A run stops in order, with a checkpoint; pressed a second time, at once."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Self

from distft.controller.stop_flag import StopFlag

_STDERR = 2
_WRITTEN_S = 0.1  # within which the byte of a signal that another thread took follows the call of its handler


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
        with contextlib.suppress(OSError):  # past Python's buffers: the signal may have come while one was written
            os.write(_STDERR, b"\ndistft: stopping after this step, with a checkpoint; again: at once\n")

    def hung_up(_number: int, _frame: Any) -> None:
        stop.set()

    with heard({signal.SIGINT: asked, signal.SIGTERM: asked, signal.SIGHUP: hung_up}):
        yield stop


@contextmanager
def heard(handlers: Mapping[signal.Signals, Callable[[int, Any], None]]) -> Iterator[None]:
    """Signals go to these handlers, each one that came; SIGHUP, where it is not ignored, once nothing is written to the
    closed terminal any more. Outside the main thread none is heard."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def hung_up(number: int, frame: Any) -> None:
        _leave_closed_terminal()
        handlers[signal.SIGHUP](number, frame)

    wanted = {number: hung_up if number == signal.SIGHUP else handler for number, handler in handlers.items()}
    if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:
        wanted.pop(signal.SIGHUP, None)
    with _Arrivals() as arrivals:

        def handle(_number: int, frame: Any) -> None:
            for arrived in arrivals.take():
                if arrived in wanted:
                    wanted[signal.Signals(arrived)](arrived, frame)

        former = {number: signal.signal(number, handle) for number in wanted}
        try:
            yield
        finally:
            for number, handler in former.items():
                signal.signal(number, handler)


class _Arrivals:
    """Every signal that comes, once. Python calls a handler a single time for all those of its kind that came while the
    main thread was in C code, but writes a byte for each of them as it comes, whatever the main thread does."""

    def __enter__(self) -> Self:
        self._came = deque[int]()
        self._reading, self._writing = socket.socketpair()
        for end in (self._reading, self._writing):
            end.setblocking(False)
        self._former = signal.set_wakeup_fd(self._writing.fileno(), warn_on_full_buffer=False)
        return self

    def __exit__(self, *_: object) -> None:
        signal.set_wakeup_fd(self._former)
        self._reading.close()
        self._writing.close()

    def take(self) -> Iterator[int]:
        """The numbers of those that nobody has taken. Handlers interrupt each other: no number is given out twice."""
        poll = select.poll()  # unlike select, of descriptors above 1,023 too
        poll.register(self._reading, select.POLLIN)
        poll.poll(1000 * _WRITTEN_S)
        with contextlib.suppress(BlockingIOError):
            self._came.extend(self._reading.recv(1024))
        with contextlib.suppress(IndexError):
            while True:
                yield self._came.popleft()


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
