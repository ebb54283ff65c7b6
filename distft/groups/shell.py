"""Inside a rank's process: builds the worker, runs its verbs, keeps its log. No Ray here.

The worker is a plain class named "module:Class", whose verbs return ``(report, Batch | None)``. One that has a device
also answers ``take_peaks``, what its last verb took of it. What goes wrong in it becomes a ``Failure``: the traceback
goes to the log, the last line to the driver.
"""

from __future__ import annotations

import contextlib
import faulthandler
import importlib
import io
import logging
import os
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil

from distft.batches import Batch
from distft.common.errors import DistftError
from distft.common.files import last_lines
from distft.common.logging import configure, current_stage, stage
from distft.groups import worker_start
from distft.groups.deadlines import STACKS_AT
from distft.groups.dispatch import Failure, Outcome, Request, assemble, regroup, samples_of
from distft.groups.killed import note_log

log = logging.getLogger(__name__)

_STDERR = 2


@dataclass(frozen=True)
class Tenant:
    """A further worker of a rank's process: its role, class and keywords."""

    role: str
    worker: str
    spec: Mapping[str, Any]


@dataclass(frozen=True)
class Birth:
    """What a rank is told once all ranks of its group have said where they are. ``tenants``: of other roles, that live
    in its process."""

    role: str
    rank: int
    world_size: int
    node_ip: str
    local_rank: int
    worker: str
    spec: Mapping[str, Any]
    log: str
    attempt: int
    deadline_s: float
    tenants: tuple[Tenant, ...] = ()
    folder: str = ""  # where the driver works: relative paths and the user's own modules are meant from there


class Shell:
    """Holds one worker, or those of several roles. Its methods are called one after the other on one thread.

    Of several each has its turn: ``end_turn`` of the one comes before ``take_turn`` and the verb of the next.
    """

    def __init__(self) -> None:
        self._workers: dict[str, Any] = {}
        self._turn = ""

    def build(self, birth: Birth) -> Outcome:
        """Turns output to the log and constructs the worker."""
        configure(Path(birth.log), process=f"{birth.role}-{birth.rank}", attempt=birth.attempt, capture_output=True)
        _reopen_output()
        log.info(
            "attempt %d: %s rank %d of %d, pid %d on %s (%s)",
            birth.attempt, birth.role, birth.rank, birth.world_size, os.getpid(), socket.gethostname(), birth.node_ip,
        )  # fmt: skip
        if worker_start.FOLDER in os.environ:
            forks = Path(os.environ[worker_start.FOLDER])
            note_log(forks, birth.log, process=f"{birth.role}-{birth.rank}", attempt=birth.attempt)
        _say_if_not_forked()
        _enter(birth.folder)
        _use_interface_of(birth.node_ip)
        return _guarded("start", birth.deadline_s, lambda: self._construct(birth))[0]

    def run(self, request: Request, *parts: Batch) -> tuple[Outcome, Batch | None]:
        """One verb on the rows that this rank was sent."""
        outcome, batch = _guarded(request.verb, request.deadline_s, lambda: self._run(request, parts))
        if outcome.failure is None and hasattr(self._workers[request.role], "take_peaks"):
            outcome = replace(outcome, peaks=self._workers[request.role].take_peaks())
        return outcome, batch

    def show_stacks(self, why: str) -> None:
        """Every thread's stack goes to the log. May be called while a verb runs, from another thread."""
        log.warning("stacks of this process: %s", why)
        faulthandler.dump_traceback(file=_STDERR, all_threads=True)

    def _construct(self, birth: Birth) -> tuple[None, None]:
        first = Tenant(birth.role, birth.worker, birth.spec)
        for one in (first, *birth.tenants):
            module, _, name = one.worker.partition(":")
            kind = getattr(importlib.import_module(module), name)
            host = {"host": self._workers[birth.role]} if self._workers else {}
            self._workers[one.role] = kind(
                rank=birth.rank, world_size=birth.world_size, node_ip=birth.node_ip, local_rank=birth.local_rank,
                **one.spec, **host,
            )  # fmt: skip
        self._turn = birth.role
        return None, None

    def _run(self, request: Request, parts: tuple[Batch, ...]) -> tuple[Any, Batch | None]:
        kwargs = dict(request.kwargs)
        if request.layout is not None:
            kwargs["batch"] = assemble(regroup(parts, request.layout), request.samples)
        answer = getattr(self._in_turn(request.role), request.verb)(*request.args, **kwargs)
        if not isinstance(answer, tuple) or len(answer) != 2 or not isinstance(answer[1], Batch | None):
            raise TypeError(f"verb {request.verb} must return (report, Batch or None), not {type(answer).__name__}")
        report, batch = answer
        return None if request.keep_report else report, batch

    def _in_turn(self, role: str) -> Any:
        """The worker of that role, whose turn it is from now on."""
        worker = self._workers[role]
        if role != self._turn and len(self._workers) > 1:
            self._workers[self._turn].end_turn()
            worker.take_turn()
        self._turn = role
        return worker


def why_not_forked() -> str:
    """The last line of the server that could not fork this process, though its module could be imported once; "" where
    it was forked, or was not to be."""
    server_log = os.environ.get(worker_start.NOT_FORKED)
    return " ".join(last_lines(Path(server_log), 1)) or f"see {server_log}" if server_log else ""


def _say_if_not_forked() -> None:
    if why := why_not_forked():
        log.warning("no server could fork this rank, so that it had to import by itself, which takes longer: %s", why)


def _enter(folder: str) -> None:
    """On a cluster that somebody else started, a worker begins where Ray was started; here it goes to the driver's
    folder, if this node sees it.
    """
    with contextlib.suppress(OSError):
        os.chdir(folder)
        if folder not in sys.path:
            sys.path.append(folder)


def _use_interface_of(node_ip: str) -> None:
    """Gloo would look for its address by the host's name or a route to the world; a node may have neither."""
    if "GLOO_SOCKET_IFNAME" not in os.environ:
        for name, addresses in psutil.net_if_addrs().items():
            if any(each.address == node_ip for each in addresses):
                os.environ["GLOO_SOCKET_IFNAME"] = name


def _guarded(
    verb: str, deadline_s: float, work: Callable[[], tuple[Any, Batch | None]]
) -> tuple[Outcome, Batch | None]:
    started = time.perf_counter()
    try:
        with _stacks_before(deadline_s):
            stage(verb)
            report, batch = work()
            outcome = Outcome(report, samples_of(batch), time.perf_counter() - started, time.time())
        stage(f"idle after {verb}")
    except Exception as error:
        log.exception("%s failed", verb)
        return Outcome(failure=_failure(error)), None
    return outcome, batch


@contextlib.contextmanager
def _stacks_before(deadline_s: float) -> Iterator[None]:
    """Every thread's stack goes to the log when the deadline is near: also from inside C code."""
    faulthandler.dump_traceback_later(max(STACKS_AT * deadline_s, 0.001), file=_STDERR)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()


def _failure(error: Exception) -> Failure:
    kind = "exception"
    if isinstance(error, MemoryError) or type(error).__name__.endswith("OutOfMemoryError"):
        kind = "out_of_memory"
    expected = error if isinstance(error, DistftError) else None
    raised = "".join(traceback.format_exception_only(error)).strip().splitlines()[0]
    cause = str(expected) if expected else raised  # of our own with what to do about it
    return Failure(cause, kind, time.time(), current_stage(), expected)


def _reopen_output() -> None:
    """``print`` goes where file descriptors 1 and 2 go, line by line: Ray had its own files here."""
    for name, descriptor in (("stdout", 1), ("stderr", 2)):
        unbuffered = io.FileIO(descriptor, "w", closefd=False)
        stream = io.TextIOWrapper(unbuffered, encoding="utf-8", errors="backslashreplace", write_through=True)
        setattr(sys, name, stream)
