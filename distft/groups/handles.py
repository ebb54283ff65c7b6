"""The controller's view of groups: calls, results and references to data. No Ray here.

A *call* is a verb asked of every rank of a group; it is started by ``together`` and not before, so
that the calls of groups which do not share devices can run at once. What a verb computes stays in
the object store: the controller holds a ``DataRef``, the numbers of the samples and where they lie.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol


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
class Result:
    """What a call brought: rank 0's report, all reports by rank, and the data left in the store.

    ``reports`` has None where the verb's declaration keeps the reports of other ranks than 0 at home.
    ``data`` is None when the verb returned no batch. ``seconds`` runs from the start of the call
    itself (after any sleep and wake) to the last rank's answer.
    """

    report: Any
    reports: tuple[Any, ...]
    data: DataRef | None
    seconds: float


@dataclass(frozen=True)
class Call:
    """A verb to be run on a group, not started yet. ``run`` is how its group starts calls."""

    group: Group
    verb: str
    run: Callable[[Sequence[Call]], tuple[Result, ...]] = field(repr=False)
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    each: tuple[tuple[Any, ...], ...] | None = None
    data: tuple[DataRef, ...] = ()
    samples: tuple[tuple[int, ...], ...] | None = None
    deadline_s: float | None = None

    def result(self) -> Result:
        """Runs this call alone."""
        return together(self)[0]


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
        verb: str,
        *args: Any,
        each: Sequence[tuple[Any, ...]] | None = None,
        data: Sequence[DataRef] = (),
        samples: Sequence[Sequence[int]] | None = None,
        deadline_s: float | None = None,
        **kwargs: Any,
    ) -> Call:
        """``worker.verb(*args, *each[rank], batch=..., **kwargs)`` on every rank, once it is run.

        ``batch`` is given where ``data`` is: rank r gets the rows ``samples[r]`` (all rows when None)
        with the columns of all of ``data``. A rank asked for no samples gets an empty batch.
        Raises ValueError for an undeclared verb or arguments that do not fit the number of ranks.
        """
        ...


def together(*calls: Call) -> tuple[Result, ...]:
    """Runs the calls, at once where their groups share no devices; results in the order of the calls.

    The first failure ends it, without waiting for the others: UserError and EnvironmentFallsShort
    raised by a worker as themselves, everything else as RunFailed.
    """
    if not calls:
        return ()
    run = calls[0].run
    if any(call.run != run for call in calls):
        raise ValueError("these calls belong to groups that were not started together")
    return run(calls)


def _few(samples: frozenset[int]) -> str:
    shown = ", ".join(str(sample) for sample in sorted(samples)[:5])
    return shown if len(samples) <= 5 else f"{shown} ... ({len(samples)} in all)"
