"""What a person sees while a run goes on: a live line on a terminal, elsewhere a plain line now and then."""

from __future__ import annotations

import contextlib
import sys
import time
from collections import deque
from collections.abc import Mapping
from types import TracebackType
from typing import Protocol, Self, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn
from rich.progress import Progress as Bar

# The few numbers worth a place on the line: name of the metric, what the line calls it.
HEADLINES = (
    ("objective/scores", "score"), ("reward", "reward"), ("objective/kl", "kl"), ("kl", "kl"), ("loss", "loss"),
    ("loss/policy_avg", "policy loss"), ("rewards/accuracies", "accuracy"), ("accuracy", "accuracy"),
    ("rewards/margins", "margin"), ("margin", "margin"),
)  # fmt: skip
_MAX_HEADLINES = 3
_PACE_STEPS = 20
_EVERY_S = 10.0  # between plain lines of steps: all of them stand in metrics.jsonl
_MAX_HELD_OUT = 6


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

    def close(self) -> None:
        """Stop drawing; a second call does nothing."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None: ...  # fmt: skip


def make_progress(name: str, *, quiet: bool = False, stream: TextIO | None = None) -> Progress:
    """Nothing if ``quiet`` (``--json``), live if ``stream`` (stdout) is a terminal, else plain lines."""
    out = stream if stream is not None else sys.stdout
    if quiet:
        return QuietProgress()
    return LiveProgress(name, out) if out.isatty() else PlainProgress(name, out)


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

    def close(self) -> None:
        """Nothing to stop."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:  # fmt: skip
        self.close()


class PlainProgress(QuietProgress):
    """Lines with the time: of the first step, of the last and of one in ten seconds between them; every evaluation and
    checkpoint; phases only until the first step, while there is nothing else to see.
    """

    def __init__(self, name: str, stream: TextIO) -> None:
        self._name, self._stream = name, stream
        self._pace = _Pace()
        self._stepped: float | None = None  # when the last line of a step was written

    def phase(self, name: str) -> None:
        """A line of its own before the first step."""
        if self._stepped is None:
            self._write(name)

    def step(self, step: int, total: int | None, metrics: Mapping[str, float]) -> None:
        """``2026-11-27 10:00:00 ppo-tiny: step 3/100  score 0.12  kl 0.01  1,230 tokens/s  2 min left``."""
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
        self.note(_said_held_out(step, metrics))

    def note(self, text: str) -> None:
        """A line of its own."""
        self._write(text)

    def _write(self, text: str) -> None:
        line = f"{time.strftime('%Y-%m-%d %H:%M:%S')} {self._name}: {text}"
        with contextlib.suppress(OSError, ValueError):  # a pipe that was closed at the other end
            print(line, file=self._stream, flush=True)


class LiveProgress(QuietProgress):
    """One line that is redrawn, below whatever else is printed."""

    def __init__(self, name: str, stream: TextIO) -> None:
        self._pace = _Pace()
        self._bar = Bar(
            TextColumn("[bold]{task.description}"), TextColumn("{task.fields[phase]}"), BarColumn(bar_width=24),
            MofNCompleteColumn(), TextColumn("{task.fields[numbers]}", markup=False),
            console=Console(file=stream), transient=False, refresh_per_second=4,
        )  # fmt: skip
        self._task: TaskID = self._bar.add_task(name, total=None, phase="", numbers="")
        self._open = True
        self._bar.start()

    def phase(self, name: str) -> None:
        """Shown before the bar."""
        self._bar.update(self._task, phase=name)

    def step(self, step: int, total: int | None, metrics: Mapping[str, float]) -> None:
        """The bar, the headlines, and the time left."""
        self._pace.observe(step)
        left = self._pace.left(step, total)
        numbers = [*headlines(metrics), *([f"{duration(left)} left"] if left is not None else [])]
        self._bar.update(self._task, completed=step, total=total, numbers="  ".join(numbers))

    def held_out(self, step: int, metrics: Mapping[str, float]) -> None:
        """A line above the bar."""
        self.note(_said_held_out(step, metrics))

    def note(self, text: str) -> None:
        """A line above the bar."""
        self._bar.console.print(text, markup=False, highlight=False)

    def close(self) -> None:
        """Leave the last state on the screen and show the cursor again."""
        if self._open:
            self._open = False
            self._bar.stop()


def headlines(metrics: Mapping[str, float]) -> list[str]:
    """The first few known metrics and the speed, as text."""
    shown: dict[str, str] = {}
    for name, label in HEADLINES:
        if name in metrics and label not in shown and len(shown) < _MAX_HEADLINES:
            shown[label] = f"{label} {metrics[name]:.4g}"
    speed = metrics.get("perf/tokens_per_second")
    return [*shown.values(), *([f"{speed:,.0f} tokens/s"] if speed is not None else [])]


def _said_held_out(step: int, metrics: Mapping[str, float]) -> str:
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
    return f"{num_bytes / 1e9:.2f} GB" if num_bytes >= 1e7 else f"{num_bytes / 1e6:.2f} MB"


class _Pace:
    """Seconds per step over the last steps of this process: a resumed run does not count what it did not do."""

    def __init__(self) -> None:
        self._marks: deque[tuple[int, float]] = deque(maxlen=_PACE_STEPS)

    def observe(self, step: int) -> None:
        self._marks.append((step, time.monotonic()))

    def left(self, step: int, total: int | None) -> float | None:
        first, since = self._marks[0]
        if total is None or step <= first:
            return None
        return (time.monotonic() - since) / (step - first) * max(0, total - step)
