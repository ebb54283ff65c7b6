"""Groups of Ray actors behind the controller's interface: starts calls, lane by lane, and collects them."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from distft.common.errors import DistftError, RunFailed
from distft.groups.deadlines import DeadlineBook, Deadlines
from distft.groups.dispatch import Verb, collect, declared, request_for
from distft.groups.handles import Call, DataRef, Result, WorkerInfo
from distft.groups.lanes import Devices, lanes
from distft.groups.worker_group import Answers, Asked, Member
from distft.tracking.timing import Busy


class RayGroup:
    """All ranks of one role; see ``handles.Group``."""

    def __init__(
        self, role: str, members: Sequence[Member], attempt: Attempt, micro_batch_cost: int | None = None
    ) -> None:
        self._role, self._members, self._attempt = role, tuple(members), attempt
        self._micro_batch_cost = micro_batch_cost

    @property
    def role(self) -> str:
        return self._role

    @property
    def num_ranks(self) -> int:
        return len(self._members)

    @property
    def micro_batch_cost(self) -> int | None:
        return self._micro_batch_cost

    @property
    def members(self) -> tuple[Member, ...]:
        """The actors by rank."""
        return self._members

    @property
    def workers(self) -> tuple[WorkerInfo, ...]:
        return tuple(member.info for member in self._members if member.info is not None)

    def call(
        self,
        verb: str,
        *args: Any,
        each: Sequence[tuple[Any, ...]] | None = None,
        data: Sequence[DataRef] = (),
        samples: Sequence[Sequence[int]] | None = None,
        deadline_s: float | None = None,
        **kwargs: Any,
    ) -> Call:
        """See ``handles.Group.call``."""
        ranks = 1 if declared(verb, self._attempt.verbs).ranks == "first" else self.num_ranks
        for name, given in (("each", each), ("samples", samples)):
            if given is not None and len(given) != ranks:
                raise ValueError(f"{self.role}.{verb}: {name} has {len(given)} entries for {ranks} ranks")
        if samples is not None and not data:
            raise ValueError(f"{self.role}.{verb}: samples without data to take them from")
        for source in data if samples is not None else ():
            source.select([sample for rows in samples or () for sample in rows])  # raises where one is missing
        return Call(
            group=self,
            verb=verb,
            run=self._attempt.run,
            args=args,
            kwargs=kwargs,
            each=None if each is None else tuple(each),
            data=tuple(data),
            samples=None if samples is None else tuple(tuple(rows) for rows in samples),
            deadline_s=deadline_s,
        )


@dataclass(eq=False)
class _Step:
    """A verb that is running: a call of the controller (``position`` among them) or a sleep or wake."""

    group: RayGroup
    verb: str
    position: int | None
    asked: Asked
    data_refs: list[Any]
    moved: tuple[str, ...]


class Attempt:
    """All groups that live and die together. Its first failure is its end: later calls raise it again."""

    def __init__(self, devices: Devices, deadlines: Deadlines, verbs: Mapping[str, Verb], answers: Answers) -> None:
        self.groups: dict[str, RayGroup] = {}
        self.verbs = verbs
        self.devices = devices
        self.book = DeadlineBook(deadlines)
        self.failure: DistftError | None = None
        self._answers = answers
        self._computing: list[tuple[float, float]] = []
        self._moving: list[tuple[float, float]] = []
        self._peaks: dict[str, dict[str, int]] = {}

    def take_busy(self) -> Busy:
        """In how many seconds since the last call of this at least one group computed, or was moved while none did."""
        computing = covered(sorted(self._computing))
        either = covered(sorted([*self._computing, *self._moving]))
        self._computing, self._moving = [], []
        return Busy(computing, either - computing)

    def take_peaks(self) -> dict[str, dict[str, int]]:
        """By role what the fullest rank took of its device since the last call of this."""
        peaks, self._peaks = self._peaks, {}
        return peaks

    def run(self, calls: Sequence[Call]) -> tuple[Result, ...]:
        """Runs the calls; see ``handles.together``."""
        if self.failure is not None:
            raise self.failure
        try:
            return self._run(calls)
        except DistftError as failure:
            self.failure = failure
            raise
        except BaseException as interruption:
            # Verbs may still be running; what they would answer belongs to nobody any more.
            self.failure = RunFailed(f"interrupted: {interruption!r}", kind="interrupted")
            raise

    def _run(self, calls: Sequence[Call]) -> tuple[Result, ...]:
        waiting = lanes([self.devices.device_set_of[call.group.role] for call in calls])
        running: dict[str, _Step] = {}
        results: dict[int, Result] = {}
        while waiting or running:
            for lane, positions in list(waiting.items()):
                if lane not in running:
                    running[lane] = self._next_step(calls, positions)
                    if not positions:
                        del waiting[lane]
            asked = self._answers.next([step.asked for step in running.values()])
            lane = next(lane for lane, step in running.items() if step.asked is asked)
            step = running.pop(lane)
            result = self._finish(step)
            if step.position is not None:
                results[step.position] = result
        return tuple(results[position] for position in range(len(calls)))

    def _next_step(self, calls: Sequence[Call], positions: deque[int]) -> _Step:
        """The lane's next call, or what must come before it; a call is taken off the lane."""
        call = calls[positions[0]]
        before = self.devices.steps_before(call.group.role, declared(call.verb, self.verbs))
        if before:
            move = before[0]
            return self._start(self.groups[move.role].call(move.verb, move.parts), None, move.parts)
        return self._start(call, positions.popleft())

    def _start(self, call: Call, position: int | None, moved: tuple[str, ...] = ()) -> _Step:
        """Sends the verb to the ranks that run it."""
        group = self.groups[call.group.role]
        verb = declared(call.verb, self.verbs)
        deadline_s = call.deadline_s or self.book.deadline(group.role, call.verb, verb)
        members = group.members if verb.ranks == "all" else group.members[:1]
        requests = [request_for(call, rank, verb, deadline_s) for rank in range(len(members))]
        asked = Asked(group.role, call.verb, {}, deadline_s)
        data_refs = []
        for member, (request, parts) in zip(members, requests, strict=True):
            report, data = member.actor.run.remote(request, *(part.ref for part in parts))
            asked.waiting[report] = member
            data_refs.append(data)
        return _Step(group, call.verb, position, asked, data_refs, moved)

    def _finish(self, step: _Step) -> Result:
        seconds = time.monotonic() - step.asked.started
        self.book.saw(step.group.role, step.verb, seconds)
        verb = declared(step.verb, self.verbs)
        self.devices.ran(step.group.role, step.verb, verb, step.moved)
        outcomes = [step.asked.answers[member] for member in step.group.members[: len(step.data_refs)]]
        if step.position is None or verb.on_device:
            now, spans = time.monotonic(), self._moving if step.position is None else self._computing
            spans.append((now - max(outcome.seconds for outcome in outcomes), now))
        peaks = self._peaks.setdefault(step.group.role, {}) if any(outcome.peaks for outcome in outcomes) else {}
        for name, size in (pair for outcome in outcomes for pair in outcome.peaks.items()):
            peaks[name] = max(size, peaks.get(name, 0))
        reports = tuple(outcome.report for outcome in outcomes)
        try:
            data = collect(outcomes, step.data_refs)
        except ValueError as error:
            raise RunFailed(f"{step.verb}: {error}", role=step.group.role, kind="exception") from error
        return Result(reports[0], reports, data, seconds)


def covered(spans: Sequence[tuple[float, float]]) -> float:
    """The length of the union of intervals (start, end), sorted by start."""
    total, reached = 0.0, float("-inf")
    for start, end in spans:
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total
