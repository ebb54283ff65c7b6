"""Log lines of one process: a file of its own, the terminal where asked for, and stages.

A *stage* is the last thing a process set out to do ("load weights", "update: backward"). When a
worker dies or freezes its last stage is named in the error, read from the tail of its log.
"""

from __future__ import annotations

import contextlib
import faulthandler
import logging
import os
import re
import signal
import sys
import time
from pathlib import Path
from typing import TextIO

_STAGE_LINE = re.compile(r"(?:^|\s)stage: (?P<text>.*)$")
_TAIL_BLOCK = 64 * 1024
_TAIL_LIMIT = 8 * 1024 * 1024
_stage_logger = logging.getLogger("distft.stage")
_handlers: list[logging.Handler] = []
_stage = ""
_stacks: TextIO | None = None  # where a fatal signal or SIGUSR2 writes the stacks


class _Terminal(logging.StreamHandler[TextIO]):
    """Warnings and worse, to whatever ``sys.stderr`` is now: a live display replaces it while it draws."""

    def __init__(self) -> None:
        super().__init__(sys.stderr)
        self.setLevel(logging.WARNING)
        self.addFilter(lambda record: record.name != "py.warnings")  # for developers: these stay in the file

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stderr
        super().emit(record)


class _File(logging.StreamHandler[TextIO]):
    """Owns its stream. Closing it first takes back the promise that stacks are written there. A line that the disk
    refuses is lost, and nothing else: who logs goes on."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 (the base's)
        if not isinstance(sys.exc_info()[1], OSError):
            super().handleError(record)

    def close(self) -> None:
        global _stacks
        if _stacks is self.stream:
            faulthandler.unregister(signal.SIGUSR2)
            faulthandler.disable()
            _stacks = None
        with contextlib.suppress(OSError):
            self.stream.close()
        super().close()


class _Lines(logging.Formatter):
    """``2026-11-02T10:00:00.123+0100 INFO [attempt 1 policy-0] distft.engine: text``."""

    def __init__(self, process: str, attempt: int) -> None:
        super().__init__(f"%(asctime)s %(levelname)s [attempt {attempt} {process}] %(name)s: %(message)s")

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: N802, ARG002 (the base's)
        moment = time.localtime(record.created)
        return f"{time.strftime('%Y-%m-%dT%H:%M:%S', moment)}.{int(record.msecs):03d}{time.strftime('%z', moment)}"


class _Said(logging.Formatter):
    """``distft: warning: text``, as what is said before a run; behind it what was raised, if anything was."""

    def format(self, record: logging.LogRecord) -> str:
        return f"distft: {record.levelname.lower()}: {super().format(record)}"


def configure(
    log_path: Path | None = None,
    *,
    process: str = "driver",
    attempt: int = 1,
    terminal: bool = False,
    level: int = logging.INFO,
    capture_output: bool = False,
) -> None:
    """Send this process's log to ``log_path`` (appended) and, if asked, its warnings to the terminal.

    May be called again (a new attempt): the former handlers are closed. With a file, the stacks of
    all threads are written to it on a fatal signal and on SIGUSR2. ``capture_output`` also turns
    file descriptors 1 and 2 to the file, so that what C++ libraries print before they die is there.
    Raises OSError if the file cannot be opened.
    """
    root = logging.getLogger()
    former, _handlers[:] = list(_handlers), []
    if log_path is not None:
        log_path.parent.mkdir(parents=True, exist_ok=True)
        stream = open(log_path, "a", encoding="utf-8", errors="backslashreplace", buffering=1)  # noqa: SIM115 (the handler's)
        _handlers.append(_File(stream))
        _stacks_to(stream)
        if capture_output:
            _capture(stream)
    for handler in former:
        root.removeHandler(handler)
        handler.close()
    if terminal:
        _handlers.append(_Terminal())
    for handler in _handlers:
        handler.setFormatter(_Said() if isinstance(handler, _Terminal) else _Lines(process, attempt))
        root.addHandler(handler)
    root.setLevel(level)
    logging.captureWarnings(True)


def append_line(log_path: Path, text: str, *, process: str, attempt: int) -> None:
    """A warning in the log of another process, which can write no more. Raises OSError."""
    record = logging.LogRecord("distft", logging.WARNING, "", 0, text, None, None)
    with open(log_path, "a", encoding="utf-8") as log:
        log.write(f"{_Lines(process, attempt).format(record)}\n")


def stage(text: str) -> None:
    """Say what this process sets out to do now: logged as ``stage: <text>`` and remembered."""
    global _stage
    _stage = " ".join(text.split())
    _stage_logger.info("stage: %s", _stage)


def current_stage() -> str:
    """The last stage of this process, "" before the first."""
    return _stage


def is_stage(line: str) -> bool:
    """Whether a line of a log is a stage."""
    return " distft.stage: " in line or line.startswith("stage: ")


def last_stage(log_path: Path | str) -> str:
    """The last stage in a log, read backwards from its end; "" if none or no such file."""
    try:
        with open(log_path, "rb") as log:
            end = log.seek(0, os.SEEK_END)
            start, tail = end, b""
            while start > 0 and end - start < _TAIL_LIMIT:
                size = min(_TAIL_BLOCK, start)
                start -= size
                log.seek(start)
                tail = log.read(size) + tail
                found = _last_stage_of(tail, whole=start == 0)
                if found is not None:
                    return found
    except OSError:
        return ""
    return ""


def _last_stage_of(tail: bytes, *, whole: bool) -> str | None:
    lines = tail.decode("utf-8", errors="replace").splitlines()
    for line in reversed(lines if whole else lines[1:]):
        if is_stage(line):
            found = _STAGE_LINE.search(line)
            if found:
                return found["text"]
    return None


def _stacks_to(stream: TextIO) -> None:
    global _stacks
    _stacks = stream
    faulthandler.enable(file=stream, all_threads=True)
    faulthandler.register(signal.SIGUSR2, file=stream, all_threads=True, chain=False)


def _capture(stream: TextIO) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os.dup2(stream.fileno(), 1)
    os.dup2(stream.fileno(), 2)
