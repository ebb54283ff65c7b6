"""Where the time of a step goes, and how fast it is."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple


class Busy(NamedTuple):
    """What the devices did in a span: seconds in which some group computed, and in which one was moved (a sleep or
    wake) while none computed.
    """

    computing: float = 0.0
    moving: float = 0.0


class Span(NamedTuple):
    """What somebody did for a while: ``who`` (the controller, or a role), which ``rank`` of it; ``start`` in unix
    seconds."""

    who: str
    rank: int
    what: str
    start: float
    seconds: float


def at_work(spans: Sequence[Span], start: float, end: float) -> dict[str, float]:
    """``perf/busy/<role>``: of a step between two moments (unix seconds) the share in which the role's ranks, on
    whatever node, carried out calls, the mean over those that did anything in it. Of calls that began before it, as
    while the run got ready, what lies within it."""
    by_rank: dict[str, dict[int, float]] = {}
    for span in spans:
        within = min(span.start + span.seconds, end) - max(span.start, start)
        if within > 0:
            ranks = by_rank.setdefault(span.who, {})
            ranks[span.rank] = ranks.get(span.rank, 0.0) + within
    return {f"perf/busy/{role}": sum(ranks.values()) / len(ranks) / (end - start) for role, ranks in by_rank.items()}


class PhaseTimer:
    """Seconds by phase since the last report. Phases do not overlap: an inner one stops the outer's clock.

    ::

        with timer.phase("rollout"):
            ...
        timer.report()   # {"timing/rollout": 3.1, "timing/step": 3.4, "timing/idle_share": 0.09}

    With ``devices``, which answers what they did since it was last asked, of each phase too
    ``timing/<phase>/transfer``, in which groups changed places, and ``timing/<phase>/wait``, in which none computed or
    moved; and of the step ``perf/idle_fraction``, the part in which none computed.
    """

    def __init__(
        self, clock: Callable[[], float] = time.perf_counter, devices: Callable[[], Busy] | None = None
    ) -> None:
        self._clock, self._devices = clock, devices
        self._unix = time.time() - clock()  # of the clock's zero
        self._spans: list[Span] = []
        self._seconds: dict[str, float] = {}
        self._used: dict[str, Busy] = {}
        self._open: list[str] = []
        self._since = self._mark = clock()

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Count the time of the block, less that of phases inside it, under ``name``."""
        self._settle()
        self._open.append(name)
        try:
            yield
        finally:
            self._settle()
            self._open.pop()

    def take_spans(self) -> list[Span]:
        """The phases since the last call of this, up to the last change of phase; an interrupted one is several."""
        spans, self._spans = self._spans, []
        return spans

    def report(self) -> dict[str, float]:
        """``timing/<phase>`` and ``timing/step`` (all of it) in seconds, ``timing/idle_share`` the part
        of the step outside of every phase; then starts over. A phase that is open goes on in the next.
        """
        self._settle()
        total = self._mark - self._since
        report = {f"timing/{name}": seconds for name, seconds in self._seconds.items()}
        idle = max(0.0, total - sum(self._seconds.values()))
        report["timing/step"] = total
        report["timing/idle_share"] = idle / total if total > 0 else 0.0
        if self._devices is not None:
            report |= self._device_report(total)
        self._seconds, self._used, self._since = {}, {}, self._mark
        return report

    def _device_report(self, total: float) -> dict[str, float]:
        report = {}
        for name, seconds in self._seconds.items():
            computing, moving = self._used.get(name, Busy())
            report[f"timing/{name}/wait"] = max(0.0, seconds - computing - moving)
            if moving:
                report[f"timing/{name}/transfer"] = moving
        computed = sum(used.computing for used in self._used.values())
        return report | ({"perf/idle_fraction": max(0.0, 1 - computed / total)} if total > 0 else {})

    def _settle(self) -> None:
        now, name = self._clock(), self._open[-1] if self._open else ""
        if name:
            self._seconds[name] = self._seconds.get(name, 0.0) + now - self._mark
            if now > self._mark:
                self._spans.append(Span("controller", 0, name, self._unix + self._mark, now - self._mark))
        if self._devices is not None:
            used, more = self._used.get(name, Busy()), self._devices()
            self._used[name] = Busy(used.computing + more.computing, used.moving + more.moving)
        self._mark = now


@dataclass(frozen=True)
class Throughput:
    """Tokens per second of a step over ``num_gpus`` devices (ranks, on CPU).

    With ``flops`` (of a step over sequences of given lengths) and ``peak_flops`` of one device per second,
    model FLOPs utilisation too (Chowdhery et al. 2022, appendix B).
    """

    num_gpus: int
    flops: Callable[[Sequence[int]], float] | None = None
    peak_flops: float = 0.0

    def report(self, lengths: Sequence[int], seconds: float) -> dict[str, float]:
        """``perf/tokens_per_second``, ``perf/tokens_per_second_per_gpu`` and, where known, ``perf/mfu`` of a step over
        sequences of so many tokens.
        """
        rate = sum(lengths) / seconds if seconds > 0 else 0.0
        report = {"perf/tokens_per_second": rate, "perf/tokens_per_second_per_gpu": rate / max(1, self.num_gpus)}
        if self.flops and self.peak_flops and seconds > 0:
            report["perf/mfu"] = self.flops(lengths) / seconds / (max(1, self.num_gpus) * self.peak_flops)
        return report
