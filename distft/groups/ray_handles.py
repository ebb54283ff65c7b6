"""Groups of Ray actors behind the controller's interface: starts calls, lane by lane, and collects them."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from distft.common.errors import DistftError, RunFailed
from distft.common.verb import Verb
from distft.groups.deadlines import DeadlineBook, Deadlines
from distft.groups.dispatch import collect, request_for
from distft.groups.handles import Call, DataRef, Result, Wait, WorkerInfo
from distft.groups.lanes import Devices
from distft.groups.recall import Recall
from distft.groups.worker_group import Answers, Asked, Member
from distft.tracking.progress import GroupState
from distft.tracking.timing import Busy, Span

_MOST_SPANS = 10_000  # kept where nobody takes them
# Verbs as people say what is being done; the others by their names.
_DOING = {
    "setup": "loading", "load": "loading", "forward": "reading", "update": "training", "evaluate": "evaluating",
    "generate": "generating", "sync_weights": "syncing", "send_weights": "syncing", "receive_weights": "syncing",
    "save": "saving", "copy": "saving", "begin_save": "saving", "finish_save": "saving", "export": "exporting",
    "function_scores": "scoring", "judge_answers": "scoring", "assign_credit": "scoring",
    "prepare_rows": "preparing", "prompts": "reading", "batch": "reading", "check_export": "checking",
    "sleep": "falling asleep", "wake": "waking",
}  # fmt: skip


class RayGroup:
    """All ranks of one role; see ``handles.Group``."""

    def __init__(
        self, role: str, members: Sequence[Member], attempt: Attempt, micro_batch_cost: int | None = None, *,
        replaceable: bool = False,
    ) -> None:  # fmt: skip
        self._role, self._members, self._attempt = role, tuple(members), attempt
        self._micro_batch_cost = micro_batch_cost
        self.replaceable = replaceable
        self.recall = Recall()

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

    def replace(self, dead: Member, successor: Member) -> None:
        """Another actor has this rank from now on."""
        self._members = tuple(successor if member is dead else member for member in self._members)

    @property
    def workers(self) -> tuple[WorkerInfo, ...]:
        return tuple(member.info for member in self._members if member.info is not None)

    def call(
        self,
        verb: Verb,
        *args: Any,
        each: Sequence[tuple[Any, ...]] | None = None,
        data: Sequence[DataRef] = (),
        samples: Sequence[Sequence[int]] | None = None,
        deadline_s: float | None = None,
        **kwargs: Any,
    ) -> Call[Result[Any]]:
        """See ``handles.Group.call``."""
        ranks = 1 if verb.ranks == "first" else self.num_ranks
        for name, given in (("each", each), ("samples", samples)):
            if given is not None and len(given) != ranks:
                raise ValueError(f"{self.role}.{verb.name}: {name} has {len(given)} entries for {ranks} ranks")
        if samples is not None and not data:
            raise ValueError(f"{self.role}.{verb.name}: samples without data to take them from")
        for source in data if samples is not None else ():
            source.select([sample for rows in samples or () for sample in rows])  # raises where one is missing
        return Call(
            group=self,
            verb=verb,
            runner=self._attempt,
            read=lambda result: result,
            args=args,
            kwargs=kwargs,
            each=None if each is None else tuple(each),
            data=tuple(data),
            samples=None if samples is None else tuple(tuple(rows) for rows in samples),
            deadline_s=deadline_s,
        )


@dataclass(eq=False)
class _Started:
    """A call that was started: in its lane, running, or with its result."""

    call: Call[Any]
    result: Result[Any] | None = None


@dataclass(eq=False)
class Step:
    """A verb that is running: a started call's (``of``), or a sleep or wake that comes before it."""

    group: RayGroup
    call: Call[Any]
    of: _Started | None
    asked: Asked
    data_refs: list[Any]
    moved: tuple[Any, ...]

    @property
    def verb(self) -> Verb:
        return self.call.verb


class Attempt:
    """All groups that live and die together. Its first failure is its end: later calls raise it again."""

    def __init__(self, devices: Devices, deadlines: Deadlines, answers: Answers) -> None:
        self.groups: dict[str, RayGroup] = {}
        self.devices = devices
        self.book = DeadlineBook(deadlines)
        self.failure: DistftError | None = None
        self.succeed: Callable[[RunFailed], None] | None = None  # has another worker go on, or raises
        self._answers = answers
        self._lanes: dict[str, deque[_Started]] = {}
        self._running: dict[str, Step] = {}
        self._computing: list[tuple[float, float]] = []
        self._moving: list[tuple[float, float]] = []
        self._peaks: dict[str, dict[str, int]] = {}
        self._spans: deque[Span] = deque(maxlen=_MOST_SPANS)

    def states(self) -> dict[str, GroupState]:
        """What every group does now. Another thread may ask."""
        running = {step.group.role: step for step in list(self._running.values())}
        found = {}
        for role, group in list(self.groups.items()):
            if (step := running.get(role)) is not None:
                doing = _DOING.get(step.verb.name, step.verb.name.replace("_", " "))
                found[role] = GroupState(group.num_ranks, doing, step.asked.started)
            else:
                found[role] = GroupState(group.num_ranks, "asleep" if self.devices.asleep(role) else "idle")
        return found

    def take_spans(self) -> list[Span]:
        """What each rank did since the last call of this, by its node's clock; of very much the end."""
        spans = list(self._spans)
        self._spans.clear()
        return spans

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

    def start(self, calls: Sequence[Call[Any]]) -> tuple[Wait, ...]:
        """See ``handles.Runner.start``. Lanes move on only while somebody waits: a call that must wait for its devices,
        or a sleep that comes before it, is sent then."""
        started = [_Started(call) for call in calls]
        with self._ended_by_a_failure():
            for one in started:
                self._lanes.setdefault(self.devices.device_set_of[one.call.group.role], deque()).append(one)
            self._send()
        return tuple(partial(self._wait, one) for one in started)

    def last(self, call: Call[Any], seconds: float) -> Result[Any]:
        """See ``handles.Runner.last``. What was asked before may still run, and is waited for no more."""
        step = self._ask(replace(call, deadline_s=seconds), None)
        self._answers.next([step.asked])
        return self._finish(step)

    def _wait(self, started: _Started) -> Result[Any]:
        with self._ended_by_a_failure():
            while started.result is None:
                try:
                    asked = self._answers.next([step.asked for step in self._running.values()])
                except RunFailed as failure:
                    if self.succeed is None:
                        raise
                    self.succeed(failure)
                    continue
                lane = next(lane for lane, step in self._running.items() if step.asked is asked)
                step = self._running.pop(lane)
                result = self._finish(step)
                if step.of is not None:
                    step.of.result = result
                self._send()
        return started.result

    def lacks_an_answer(self, dead: Member) -> bool:
        """Whether another member than the one that died has failed in what is running: no answer of it will come."""
        return any(
            member is not dead and member not in step.asked.answers and member not in step.asked.waiting.values()
            for step in self._running.values()
            for member in step.group.members[: len(step.data_refs)]
        )

    def interrupt(self, group: RayGroup) -> Step | None:
        """The verb that this group is running, if it is; nobody waits for it until it goes on."""
        lane = self.devices.device_set_of[group.role]
        step = self._running.get(lane)
        return self._running.pop(lane) if step is not None and step.group is group else None

    def go_on(self, interrupted: Step) -> None:
        """A verb that was interrupted is waited for again."""
        self._running[self.devices.device_set_of[interrupted.group.role]] = interrupted

    def forgive(self, seconds: float) -> None:
        """Whatever is running may take so much longer: nobody looked for its answers meanwhile."""
        for step in self._running.values():
            step.asked.away_s += min(seconds, time.monotonic() - step.asked.started)

    @contextmanager
    def _ended_by_a_failure(self) -> Iterator[None]:
        if self.failure is not None:
            raise self.failure
        try:
            yield
        except DistftError as failure:
            self.failure = failure
            raise
        except BaseException as interruption:
            # Verbs may still be running; what they would answer belongs to nobody any more.
            self.failure = RunFailed(f"interrupted: {interruption!r}", kind="interrupted")
            raise

    def _send(self) -> None:
        """Every lane on which nothing runs goes on: with its next call, or with what must come before it."""
        for lane, waiting in self._lanes.items():
            if waiting and lane not in self._running:
                self._running[lane] = self._next_step(waiting)

    def _next_step(self, waiting: deque[_Started]) -> Step:
        call = waiting[0].call
        before = self.devices.steps_before(call.group.role, call.verb)
        if before:
            move = before[0]
            return self._ask(self.groups[move.role].call(move.verb, move.parts), None, move.parts)
        return self._ask(call, waiting.popleft())

    def _ask(self, call: Call[Any], of: _Started | None, moved: tuple[Any, ...] = ()) -> Step:
        """Sends the verb to the ranks that run it."""
        group, verb = self.groups[call.group.role], call.verb
        deadline_s = call.deadline_s or self.book.deadline(group.role, verb)
        members = group.members if verb.ranks == "all" else group.members[:1]
        requests = [request_for(call, rank, deadline_s) for rank in range(len(members))]
        asked = Asked(group.role, verb.name, {}, deadline_s)
        data_refs = []
        for member, (request, parts) in zip(members, requests, strict=True):
            report, data = member.actor.run.remote(request, *(part.ref for part in parts))
            asked.waiting[report] = member
            data_refs.append(data)
        return Step(group, call, of, asked, data_refs, moved)

    def _finish(self, step: Step) -> Result[Any]:
        seconds = time.monotonic() - step.asked.started
        outcomes = [step.asked.answers[member] for member in step.group.members[: len(step.data_refs)]]
        longest = max(outcome.seconds for outcome in outcomes)
        self.book.saw(step.group.role, step.verb, max(longest, seconds - step.asked.away_s))
        self.devices.ran(step.group.role, step.verb, step.moved)
        if step.of is None or step.verb.on_device:
            now, spans = time.monotonic(), self._moving if step.of is None else self._computing
            spans.append((now - longest, now))
        for rank, outcome in enumerate(outcomes):
            start = outcome.ended - outcome.seconds
            self._spans.append(Span(step.group.role, rank, step.verb.name, start, outcome.seconds))
        peaks = self._peaks.setdefault(step.group.role, {}) if any(outcome.peaks for outcome in outcomes) else {}
        for name, size in (pair for outcome in outcomes for pair in outcome.peaks.items()):
            peaks[name] = max(size, peaks.get(name, 0))
        reports = tuple(outcome.report for outcome in outcomes)
        try:
            data = collect(outcomes, step.data_refs)
        except ValueError as error:
            raise RunFailed(f"{step.verb.name}: {error}", role=step.group.role, kind="exception") from error
        if step.group.replaceable:
            step.group.recall.note(step.call, reports)
        return Result(reports[0], reports, data, seconds)


def covered(spans: Sequence[tuple[float, float]]) -> float:
    """The length of the union of intervals (start, end), sorted by start."""
    total, reached = 0.0, float("-inf")
    for start, end in spans:
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total
