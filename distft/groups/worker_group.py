"""Ray actors and the driver's waiting for them: an answer, a death or a deadline, whichever is first.

Every actor runs ``watch``, which never returns, on a thread of its own. Its future fails the moment
the actor dies, whoever is busy or idle, so every wait includes the watches of all actors.
"""

from __future__ import annotations

import contextlib
import logging
import re
import socket
import threading
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from os import getpid
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import (
    ActorUnavailableError,
    NodeDiedError,
    ObjectLostError,
    OutOfMemoryError,
    RayError,
    RayTaskError,
)

from distft.batches import Batch
from distft.common.errors import DistftError, EnvironmentFallsShort, RunFailed, UserError
from distft.common.logging import last_stage
from distft.groups.absence import Absence
from distft.groups.bundles import Where
from distft.groups.dispatch import Failure, Outcome, Request
from distft.groups.handles import WorkerInfo
from distft.groups.killed import killed_by
from distft.groups.shell import Birth, Shell, why_not_forked

log = logging.getLogger(__name__)

# After a first exception the others are waited for this long: a peer's death or own exception may be
# what caused it. A lost node is known 2 s later than the collective that broke because of it.
_GRACE_S = 0.5
_GRACE_BROKEN_CONNECTION_S = 3.0
_PULSE_S = 5.0  # how long a living process may take to say that it is there: much, on a busy node, or it were blamed
_LOOK_S = 1.0  # how often a wait looks whether Ray's own servers are there
_BROKEN_CONNECTION = re.compile(r"connection|peer|gloo|nccl|socket|broken pipe", re.IGNORECASE)
_EXIT_DETAIL = re.compile(r"Worker exit detail: (.+?\.)(?: Some common causes|\s*$)", re.DOTALL)
_NODE_DIED = re.compile(r"its node has died.*?node was terminated[^:]*: *([^\n]+)", re.DOTALL)


class RankActor:
    """The Ray actor around a rank's shell. ``answer`` and ``build`` run on one fixed thread."""

    def __init__(self) -> None:
        self._shell = Shell()
        self._never = threading.Event()

    def where(self, place: int) -> Outcome:
        """Reports where this actor runs."""
        context = ray.get_runtime_context()
        devices = tuple(context.get_accelerator_ids().get("GPU", []))
        ip = str(ray.util.get_node_ip_address())  # type: ignore[no-untyped-call]
        node_id, node = context.get_node_id(), socket.gethostname()
        return Outcome(Where(place, node_id, ip, node, getpid(), devices, why_not_forked()))

    def build(self, birth: Birth) -> Outcome:
        """Constructs the worker."""
        return self._shell.build(birth)

    @ray.method(num_returns=2)
    def run(self, request: Request, *parts: Batch) -> tuple[Outcome, Batch | None]:
        """A verb; the second half of the answer stays in the object store."""
        return self._shell.run(request, *parts)

    @ray.method(concurrency_group="pulse")
    def pulse(self, why: str) -> None:
        """Answers at once, whatever the verbs do, and shows where they are: a process that does not is frozen."""
        self._shell.show_stacks(why)

    @ray.method(concurrency_group="watch")
    def watch(self) -> None:
        """Never returns."""
        self._never.wait()


@dataclass(eq=False)
class Member:
    """One actor of a group, as the driver knows it. Once it has a rank ``info`` follows, and ``birth``: what it was
    told then."""

    role: str
    place: int
    actor: Any
    watch: Any
    info: WorkerInfo | None = None
    birth: Birth | None = None


@dataclass(eq=False)
class Asked:
    """Something asked of members, and the answers so far, by member. ``away_s``: seconds since then in which this
    process did not look for them."""

    role: str
    verb: str
    waiting: dict[Any, Member]
    deadline_s: float
    started: float = field(default_factory=time.monotonic)
    away_s: float = 0.0
    answers: dict[Member, Outcome] = field(default_factory=dict)

    @property
    def deadline(self) -> float:
        return self.started + self.deadline_s + self.away_s


@dataclass(frozen=True)
class _Trouble:
    """``order``: 0 a death or lost node, 1 an exception, 2 one that another's end may have caused."""

    order: int
    time: float
    error: DistftError


class Answers:
    """Waits for answers with an eye on every member of every group."""

    def __init__(self) -> None:
        self._watched: dict[Any, Member] = {}
        self._oom_kills = count_oom_kills()
        self._absence = Absence(_LOOK_S)

    def watch(self, member: Member) -> None:
        """Its death ends every wait from now on."""
        self._watched[member.watch] = member

    def drop(self, dead: Member, asked: Sequence[Asked]) -> None:
        """Nothing more is expected of a member: its end ends no wait any more. An answer that it gave before counts."""
        self._watched.pop(dead.watch, None)
        for one in asked:
            for ref in [ref for ref, member in one.waiting.items() if member is dead]:
                del one.waiting[ref]
                with contextlib.suppress(RayError):
                    outcome = ray.get(ref) if ray.wait([ref], timeout=0)[0] else None
                    if outcome is not None and outcome.failure is None:
                        one.answers[dead] = outcome

    def next(self, asked: Sequence[Asked]) -> Asked:
        """Waits until one of ``asked`` has all its answers, and returns it.

        Raises the first failure: RunFailed for a death, a lost node, an exception or a deadline;
        a worker's UserError or EnvironmentFallsShort as itself.
        """
        while True:
            complete = next((one for one in asked if not one.waiting), None)
            if complete is not None:
                return complete
            silent = sum(len(one.waiting) for one in asked)
            self.look(asked, time.monotonic())
            trouble = self._one(asked, min(one.deadline for one in asked))
            self.look(asked, time.monotonic())
            if trouble is not None:
                raise self._root(trouble, asked).error
            if sum(len(one.waiting) for one in asked) < silent:
                continue  # answers that lay ready, however long the driver was away, are no silence
            late = next((one for one in asked if one.waiting and time.monotonic() >= one.deadline), None)
            if late is not None:
                raise _too_late(late, self._without_pulse(f"no answer to {late.role}.{late.verb}"))

    def look(self, asked: Sequence[Asked], now: float) -> None:
        """Gives back to their deadlines what this process has missed since the last look. ``now``: monotonic."""
        missed = self._absence.missed(now)
        back = [min(missed, now - one.started) for one in asked]
        for one, seconds in zip(asked, back, strict=True):
            one.away_s += seconds
        if sum(back) > 1.0:
            log.info("deadlines wait %.0f s longer: this process did not look for answers for so long", max(back))

    def _one(self, asked: Sequence[Asked], until: float) -> _Trouble | None:
        """Takes one answer, if there is one before ``until``; what went wrong, if something did."""
        if ended := ended_servers():
            return _Trouble(0, time.time(), _without_ray(ended))
        pending = {ref: one for one in asked for ref in one.waiting}
        timeout = min(max(0.0, until - time.monotonic()), _LOOK_S)
        ready, _ = ray.wait([*pending, *self._watched], num_returns=1, timeout=timeout)
        if not ready:
            return None
        ref = ready[0]
        one = pending.get(ref)
        member = self._watched[ref] if one is None else one.waiting.pop(ref)
        try:
            outcome = ray.get(ref)
        except RayError as error:
            ended = ended_servers()
            return _Trouble(0, time.time(), _without_ray(ended)) if ended else _lost(member, error, self._oom_kills)
        if one is None:
            raise AssertionError("watch returned")
        if outcome.failure is not None:
            return _failed(member, outcome.failure)
        one.answers[member] = outcome
        return None

    def _without_pulse(self, why: str) -> set[Member]:
        """The members whose process does not even say that it is there; the others write their stacks."""
        asked = {member.actor.pulse.remote(why): member for member in self._watched.values() if member.info is not None}
        if not asked:
            return set()
        _, silent = ray.wait(list(asked), num_returns=len(asked), timeout=_PULSE_S)
        return {asked[ref] for ref in silent}

    def _root(self, first: _Trouble, asked: Sequence[Asked]) -> _Trouble:
        """The trouble that most likely caused the others, of those that show at once."""
        troubles = [first]
        if first.order > 0 and not isinstance(first.error, UserError):
            grace = _GRACE_S if first.order == 1 else _GRACE_BROKEN_CONNECTION_S
            until = time.monotonic() + grace
            while time.monotonic() < until and min(trouble.order for trouble in troubles) > 0:
                trouble = self._one(asked, until)
                if trouble is not None:
                    troubles.append(trouble)
        return min(troubles, key=lambda trouble: (trouble.order, trouble.time))


def ended_servers() -> list[str]:
    """Those that hold up the Ray that this process started, if it did, and have ended. Ray itself says so late, or not
    at all: calls go from process to process, and only what is large, or starts, needs a server."""
    node = ray._private.worker._global_node
    ended: list[tuple[str, Any]] = node.dead_processes() if node is not None else []
    return sorted(name for name, _ in ended if name in ("raylet", "gcs_server"))


def _without_ray(ended: Sequence[str]) -> RunFailed:
    node = socket.gethostname()
    return RunFailed(f"Ray on {node} has ended: its {' and '.join(ended)} died", node=node, kind="node")


def _failed(member: Member, failure: Failure) -> _Trouble:
    """An exception in a verb."""
    if isinstance(failure.expected, UserError | EnvironmentFallsShort):
        return _Trouble(1, failure.time, failure.expected)
    own = failure.expected if isinstance(failure.expected, RunFailed) else None
    cause = own.cause if own else failure.cause
    kind = failure.expected.kind if failure.expected else failure.kind
    order = 2 if own is None and _BROKEN_CONNECTION.search(cause) else 1
    # What a worker says in words of ours, such as that a step came out as no number, follows from what it was given.
    repeats = failure.expected is not None
    return _Trouble(order, failure.time, _run_failed(member, cause, kind, failure.stage, would_repeat=repeats))


def _lost(member: Member, error: RayError, oom_kills: int) -> _Trouble:
    """What a future that failed says of its member. ``oom_kills``: of this node when all was well."""
    if isinstance(error, RayTaskError):
        return _Trouble(1, time.time(), _run_failed(member, str(error).strip().splitlines()[-1], "exception"))
    gone_with_its_node = _NODE_DIED.search(str(error))
    if isinstance(error, ActorUnavailableError | NodeDiedError | ObjectLostError):
        cause, kind = "its node does not answer any more (Ray's raylet there is gone)", "node"
    elif gone_with_its_node:
        cause, kind = f"its node does not answer any more ({gone_with_its_node[1].strip()})", "node"
    elif isinstance(error, OutOfMemoryError):
        cause, kind = "its process was ended because the node ran out of memory", "out_of_memory"
    elif _by_the_kernel(member, oom_kills):
        cause, kind = "its process was killed by the kernel: the node ran out of memory", "out_of_memory"
    else:
        found = _EXIT_DETAIL.search(str(error))
        detail = " ".join((found[1] if found else str(error)).split())
        if "End of file" in detail:
            detail = _signal_of(member) or "killed by a signal, or crashed"
        cause, kind = f"its process died: {detail}", "death"
    return _Trouble(0, time.time(), _run_failed(member, cause, kind))


def _signal_of(member: Member) -> str:
    return killed_by(member.info.log, member.info.pid) if member.info is not None else ""


def _by_the_kernel(member: Member, oom_kills: int) -> bool:
    """Whether memory ran out on this node, and the member was here: the kernel's count has grown."""
    if member.info is None or count_oom_kills() <= oom_kills:
        return False
    return bool(member.info.node_id == ray.get_runtime_context().get_node_id())


def count_oom_kills(vmstat: Path = Path("/proc/vmstat")) -> int:
    """Processes that this node's kernel has killed for want of memory, cgroups' limits included."""
    try:
        counts = dict(line.split() for line in vmstat.read_text().splitlines())
    except (OSError, ValueError):
        return 0
    return int(counts.get("oom_kill", 0))


def _run_failed(member: Member, cause: str, kind: str, stage: str = "", *, would_repeat: bool = False) -> RunFailed:
    info = member.info
    if info is None:
        return RunFailed(cause, role=member.role, rank=None, kind=kind, stage=stage or "starting its process")
    return RunFailed(
        cause, role=member.role, rank=info.rank, node=info.node, stage=stage or last_stage(info.log), log=info.log,
        kind=kind, would_repeat=would_repeat,
    )  # fmt: skip


def _too_late(asked: Asked, without_pulse: Collection[Member] = ()) -> RunFailed:
    """A deadline has passed: who is silent, and where each of them was. A frozen one is to blame for the others."""
    silent = [member for member in asked.waiting.values() if member.info is not None]
    if not silent:
        return RunFailed(
            f"{len(asked.waiting)} worker processes have not started within {asked.deadline_s:g} s",
            role=asked.role, kind="deadline", stage="starting its process",
        )  # fmt: skip
    infos = sorted((member.info for member in silent if member.info), key=lambda info: info.rank)
    places = "; ".join(f"rank {i.rank} on {i.node} at {last_stage(i.log) or 'no stage'!r}" for i in infos)
    actors = {id(member.actor) for member in silent}  # which groups that live together have in common
    frozen = sorted(member.info.rank for member in without_pulse if id(member.actor) in actors and member.info)
    who = f"frozen: rank {', '.join(map(str, frozen))}; " if frozen else ""
    cause = f"no answer to {asked.verb} within {asked.deadline_s:g} s from {places}; {who}stacks are in the logs"
    first = next((info for info in infos if info.rank in frozen), infos[0])
    return RunFailed(
        cause, role=asked.role, rank=first.rank, node=first.node,
        stage=last_stage(first.log), log=first.log, kind="deadline",
    )  # fmt: skip
