"""What a person sees while a run goes on: a live view on a terminal, elsewhere a plain line now and then."""

from __future__ import annotations

import contextlib
import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self, TextIO

from distft.tracking.pace import Pace

# The few numbers worth a place on the line: name of the metric, what the line calls it.
HEADLINES = (
    ("objective/scores", "score"), ("reward", "reward"), ("objective/kl", "kl"), ("kl", "kl"), ("loss", "loss"),
    ("loss/policy_avg", "loss"), ("rewards/accuracies", "accuracy"), ("accuracy", "accuracy"),
    ("rewards/margins", "margin"), ("margin", "margin"),
)  # fmt: skip
SPEED = "tokens/s"
_MAX_HEADLINES = 3
_EVERY_S = 10.0  # between plain lines of steps: all of them stand in metrics.jsonl
_MAX_HELD_OUT = 6
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class GroupState:
    """``doing``, in a word, since ``since`` (monotonic seconds; None where nothing is going on)."""

    ranks: int
    doing: str
    since: float | None = None


class Progress(Protocol):
    """Shows where a run is. Closing it gives the terminal back."""

    def phase(self, name: str) -> None:
        """What is going on now."""
        ...

    def step(self, step: int, total: int | None, metrics: Mapping[str, float]) -> None:
        """A step is done."""
        ...

    def held_out(self, step: int, metrics: Mapping[str, float]) -> None:
        """The evaluation after a step."""
        ...

    def note(self, text: str) -> None:
        """Something that happened and is worth a line: a checkpoint, say."""
        ...

    def alarm(self, text: str) -> None:
        """Something that should be looked at."""
        ...

    def watch(self, states: Callable[[], Mapping[str, GroupState]]) -> None:
        """Who can be asked what each group does."""
        ...

    def close(self) -> None:
        """Stop drawing; a second call does nothing."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None: ...  # fmt: skip


class QuietProgress:
    """Shows nothing."""

    def phase(self, name: str) -> None:
        """Nothing to show."""

    def step(self, step: int, total: int | None, metrics: Mapping[str, float]) -> None:
        """Nothing to show."""

    def held_out(self, step: int, metrics: Mapping[str, float]) -> None:
        """Nothing to show."""

    def note(self, text: str) -> None:
        """Nothing to show."""

    def alarm(self, text: str) -> None:
        """As any other line."""
        self.note(text)

    def watch(self, states: Callable[[], Mapping[str, GroupState]]) -> None:
        """Nobody is asked."""

    def close(self) -> None:
        """Nothing to stop."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:  # fmt: skip
        self.close()


class _Lines(QuietProgress, ABC):
    """Lines of the first step, of the last and of one in ten seconds between them; of every evaluation, checkpoint and
    alarm.
    """

    def __init__(self) -> None:
        self._pace = Pace()
        self._stepped: float | None = None  # when the last line of a step was written

    def step(self, step: int, total: int | None, metrics: Mapping[str, float]) -> None:
        """``step 3/100  score 0.12  kl 0.01  1,230 tokens/s  2 min left``."""
        self._pace.observe(step)
        now = time.monotonic()
        if self._stepped is not None and step != total and now - self._stepped < _EVERY_S:
            return
        self._stepped = now
        where = f"{step}/{total}" if total else f"{step}"
        parts = [f"step {where}", *headlines(metrics)]
        left = self._pace.left(step, total)
        if left is not None:
            parts.append(f"{duration(left)} left")
        self._write("  ".join(parts))

    def held_out(self, step: int, metrics: Mapping[str, float]) -> None:
        """``held out after step 50: loss 1.2  accuracy 0.7``."""
        self.note(said_held_out(step, metrics))

    def note(self, text: str) -> None:
        """A line of its own."""
        self._write(text)

    @abstractmethod
    def _write(self, text: str) -> None:
        """Where a line goes."""


class PlainProgress(_Lines):
    """Lines with the time and the run's name: ``2026-11-27 10:00:00 ppo-tiny: step 3/100  ...``; phases only until the
    first step, while there is nothing else to see."""

    def __init__(self, name: str, stream: TextIO) -> None:
        super().__init__()
        self._name, self._stream = name, stream

    def phase(self, name: str) -> None:
        """A line of its own before the first step."""
        if self._stepped is None:
            self._write(name)

    def _write(self, text: str) -> None:
        line = f"{time.strftime('%Y-%m-%d %H:%M:%S')} {self._name}: {text}"
        with contextlib.suppress(OSError, ValueError):  # a pipe that was closed at the other end
            print(line, file=self._stream, flush=True)


class LoggedProgress(_Lines):
    """Shows what another one does, and keeps it in the driver's log, for ``distft logs``."""

    def __init__(self, shown: Progress) -> None:
        super().__init__()
        self._shown = shown

    def phase(self, name: str) -> None:
        """Is a stage in the log already."""
        self._shown.phase(name)

    def step(self, step: int, total: int | None, metrics: Mapping[str, float]) -> None:
        """Both, at the pace of each."""
        self._shown.step(step, total, metrics)
        super().step(step, total, metrics)

    def held_out(self, step: int, metrics: Mapping[str, float]) -> None:
        """Both."""
        self._shown.held_out(step, metrics)
        self._write(said_held_out(step, metrics))

    def note(self, text: str) -> None:
        """Both."""
        self._shown.note(text)
        self._write(text)

    def alarm(self, text: str) -> None:
        """Both."""
        self._shown.alarm(text)
        self._write(text)

    def watch(self, states: Callable[[], Mapping[str, GroupState]]) -> None:
        """The one that shows."""
        self._shown.watch(states)

    def close(self) -> None:
        """The one that shows."""
        self._shown.close()

    def _write(self, text: str) -> None:
        _log.info(text)


def headline_values(metrics: Mapping[str, float], at_most: int | None = None) -> dict[str, float]:
    """The known metrics worth a place, the first ``at_most`` by what they are called, and the speed."""
    shown: dict[str, float] = {}
    for name, label in HEADLINES:
        if name in metrics and label not in shown and (at_most is None or len(shown) < at_most):
            shown[label] = metrics[name]
    speed = metrics.get("perf/tokens_per_second")
    return shown if speed is None else {**shown, SPEED: speed}


def headlines(metrics: Mapping[str, float]) -> list[str]:
    """The first few of them, as text."""
    found = headline_values(metrics, _MAX_HEADLINES)
    return [f"{value:,.0f} {label}" if label == SPEED else f"{label} {value:.4g}" for label, value in found.items()]


def said_held_out(step: int, metrics: Mapping[str, float]) -> str:
    values = [f"{name} {value:.4g}" for name, value in metrics.items()]
    more = [f"and {len(values) - _MAX_HELD_OUT} more"] if len(values) > _MAX_HELD_OUT else []
    return f"held out after step {step}: {'  '.join([*values[:_MAX_HELD_OUT], *more])}"


def duration(seconds: float) -> str:
    """``45 s``, ``12 min``, ``3 h 05 min``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


def size_of(num_bytes: float) -> str:
    """``3.2 MB``, ``1.25 GB``."""
    return f"{num_bytes / 1e9:.2f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:.1f} MB"
