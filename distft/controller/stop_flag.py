"""Whether a run has been asked to stop."""

from __future__ import annotations


class StopFlag:
    """Set once, from a signal handler or another thread, and never taken back.

    Not ``threading.Event``: that takes a lock to be set, and a handler that interrupts whoever holds the lock (a
    second SIGHUP in the handler of the first) would wait for it for ever.
    """

    def __init__(self) -> None:
        self._set = False

    def set(self) -> None:
        """The run is to stop after this step."""
        self._set = True

    def is_set(self) -> bool:
        """Whether it is to stop."""
        return self._set
