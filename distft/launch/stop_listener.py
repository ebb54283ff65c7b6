"""The thread of a run that listens for ``distft cancel``, which asks it to stop by a file in the run folder."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from distft.common.errors import StoppedOnRequest
from distft.controller.stop_flag import StopFlag
from distft.tracking.stop_request import StopRequest, forget_request, own_names, read_request

_EVERY_S = 2.0
_AT_ONCE_S = 60.0  # how long a run may take to end in order when it is told to end at once
_log = logging.getLogger(__name__)


@contextlib.contextmanager
def stopped_by_request(run_dir: Path, token: str, stop: StopFlag) -> Iterator[None]:
    """Sets ``stop`` when this run is asked to stop; asked to stop at once, it interrupts the main thread.

    The request is removed when the block ends, so that the same command goes on; the StoppedOnRequest that
    comes of it is marked as cancelled.
    """
    jobs = own_names(os.environ)
    ended = threading.Event()

    def asked() -> StopRequest | None:
        request = read_request(run_dir)
        return request if request is not None and request.means(token, jobs) else None

    thread = threading.Thread(target=_watch, args=(asked, stop, ended), name="stop request", daemon=True)
    thread.start()
    try:
        yield
    except StoppedOnRequest as error:
        error.cancelled = asked() is not None
        raise
    finally:
        ended.set()
        thread.join(_EVERY_S)
        forget_request(run_dir)


def _watch(asked: Callable[[], StopRequest | None], stop: StopFlag, ended: threading.Event) -> None:
    while True:
        request = asked()
        if request is not None:
            if not stop.is_set():
                _log.info("asked to stop by distft cancel")
            stop.set()
            if request.now:
                _end_at_once(ended)
                return
        if ended.wait(_EVERY_S):
            return


def _end_at_once(ended: threading.Event) -> None:
    """As a second Ctrl-C; and should this process not come to its senses, by force."""
    _log.warning("asked to stop at once by distft cancel")
    os.kill(os.getpid(), signal.SIGTERM)
    if not ended.wait(_AT_ONCE_S):
        os.kill(os.getpid(), signal.SIGKILL)
