"""The controller's view of groups: calls, results and references to data. No Ray here.

A *call* is a verb asked of every rank of a group. It begins when it is started, and not before: by ``start``, which
does not wait for it, so that what is done before its ``result`` is asked for goes on beside it; or by ``together``,
which starts several alike and waits for all. What a verb computes stays in the object store: the controller holds a
``DataRef``, the numbers of the samples and where they lie.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Generic, Protocol, TypeAlias, TypeVar

from distft.common.verb import Verb

_Report = TypeVar("_Report")
_Answer = TypeVar("_Answer")
_Other = TypeVar("_Other")


@dataclass(frozen=True)
class Part:
    """One rank's result: an opaque reference to its Batch and the samples in it, in order."""

    ref: Any
    samples: tuple[int, ...]


@dataclass(frozen=True)
class DataRef:
    """Columns that lie in the object store in parts, one per rank that computed some of them.

    Raises ValueError where a sample occurs in more than one place.
    """

    parts: tuple[Part, ...]

    def __post_init__(self) -> None:
        if len(self._known) != len(self.samples):
            twice = next(sample for sample in self.samples if self.samples.count(sample) > 1)
            raise ValueError(f"sample {twice} occurs twice")

    @cached_property
    def samples(self) -> tuple[int, ...]:
        """All samples, part after part."""
        return tuple(sample for part in self.parts for sample in part.samples)

    @cached_property
    def _known(self) -> frozenset[int]:
        return frozenset(self.samples)

    def select(self, samples: Sequence[int]) -> DataRef:
        """Only the parts (whole, in order) that hold some of ``samples``; ValueError if one is in none."""
        wanted = frozenset(samples)
        missing = wanted - self._known
        if missing:
            raise ValueError(f"samples {_few(missing)} are not among the {len(self.samples)} here")
        return DataRef(tuple(part for part in self.parts if not wanted.isdisjoint(part.samples)))


@dataclass(frozen=True)
class WorkerInfo:
    """Where one rank runs. ``devices`` are Ray's accelerator ids, empty without one."""

    rank: int
    node: str
    pid: int
    devices: tuple[str, ...] = ()
    node_ip: str = ""
    node_id: str = ""
    log: str = ""


@dataclass(frozen=True)
class Result(Generic[_Report]):
    """What a verb brought: rank 0's report, all reports by rank, and the data left in the store.

    ``reports`` has None where the verb's declaration keeps the reports of other ranks than 0 at home.
    ``data`` is None when the verb returned no batch. ``seconds`` runs from the start of the verb itself (after any
    sleep and wake, and after those that were before it on its devices) to when the last rank's answer was seen.
    """

    report: _Report
    reports: tuple[_Report, ...]
    data: DataRef | None
    seconds: float


Wait: TypeAlias = Callable[[], Result[Any]]


class Runner(Protocol):
    """What the groups that were started together share: it runs their calls."""

    def start(self, calls: Sequence[Call[Any]]) -> tuple[Wait, ...]:
        """Starts the calls, at once where their groups share no devices, and returns how to wait for each.

        Where a group's devices are taken a call is next when those before it have ended. The first failure of any call
        ends every wait, also for others, and what is started or waited for later: UserError and EnvironmentFallsShort
        raised by a worker as themselves, everything else as RunFailed.
        """
        ...

    def last(self, call: Call[Any], seconds: float) -> Result[Any]:
        """Runs one call more after the failure that has ended the others, of a group that waits for no other rank.

        Raises what ends it, RunFailed after so many seconds.
        """
        ...


@dataclass(frozen=True)
class Call(Generic[_Answer]):
    """A verb to be run on a group, not started yet. ``read`` makes of what it brought what the caller wants to know.

    ``renew``: of a verb that is recalled as "renewed" (``common.verb``), does the same again for a worker that takes a
    dead one's place; False where that cannot be done now.
    """

    group: Group
    verb: Verb
    runner: Runner = field(repr=False)
    read: Callable[[Result[Any]], _Answer] = field(repr=False)
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    each: tuple[tuple[Any, ...], ...] | None = None
    data: tuple[DataRef, ...] = ()
    samples: tuple[tuple[int, ...], ...] | None = None
    deadline_s: float | None = None
    renew: Callable[[], bool] | None = None

    def start(self) -> Pending[_Answer]:
        """Starts this call and does not wait for it."""
        (wait,) = self.runner.start([self])
        return Pending(self, wait)

    def result(self) -> _Answer:
        """Runs this call alone."""
        return self.start().result()

    def last(self, seconds: float) -> _Answer:
        """Runs this call after a failure, see ``Runner.last``."""
        return self.read(self.runner.last(self, seconds))

    def reading(self, read: Callable[[_Answer], _Other]) -> Call[_Other]:
        """The same call, whose answer is read further."""
        before = self.read
        return replace(self, read=lambda result: read(before(result)))  # type: ignore[arg-type,return-value]


@dataclass(frozen=True)
class Pending(Generic[_Answer]):
    """A call that has been started."""

    call: Call[_Answer]
    wait: Wait = field(repr=False)

    def result(self) -> _Answer:
        """Waits for it. What goes wrong anywhere meanwhile is raised, see ``Runner.start``."""
        return self.call.read(self.wait())


class Group(Protocol):
    """All ranks of one role."""

    @property
    def role(self) -> str: ...

    @property
    def num_ranks(self) -> int: ...

    @property
    def micro_batch_cost(self) -> int | None:
        """Tokens in whose time it could begin one more micro-batch (see ``experience.schedule``); None: not known."""
        ...

    @property
    def workers(self) -> tuple[WorkerInfo, ...]: ...

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
        """``worker.verb(*args, *each[rank], batch=..., **kwargs)`` on every rank, once it is started.

        ``batch`` is given where ``data`` is: rank r gets the rows ``samples[r]`` (all rows when None)
        with the columns of all of ``data``. A rank asked for no samples gets an empty batch.
        Raises ValueError for arguments that do not fit the number of ranks.
        """
        ...


def together(*calls: Call[_Answer]) -> tuple[_Answer, ...]:
    """Starts the calls, at once where their groups share no devices, and waits for all; answers in their order.

    Raises as ``Runner.start`` says, and ValueError for calls of groups that were not started together.
    """
    if not calls:
        return ()
    runner = calls[0].runner
    if any(call.runner is not runner for call in calls):
        raise ValueError("these calls belong to groups that were not started together")
    waits = runner.start(calls)
    return tuple(Pending(call, wait).result() for call, wait in zip(calls, waits, strict=True))


def _few(samples: frozenset[int]) -> str:
    shown = ", ".join(str(sample) for sample in sorted(samples)[:5])
    return shown if len(samples) <= 5 else f"{shown} ... ({len(samples)} in all)"
