"""What a person sees while a run goes on: a live line on a terminal, a plain line per step elsewhere."""

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


class Progress(Protocol):
    """Shows where a run is. Closing it gives the terminal back."""

    def phase(self, name: str) -> None:
        """What is going on now."""
        ...

    def step(self, step: int, total: int | None, metrics: Mapping[str, float]) -> None:
        """A step is done."""
        ...

    def close(self) -> None:
        """Stop drawing; a second call does nothing."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None: ...  # fmt: skip


def make_progress(name: str, *, quiet: bool = False, stream: TextIO | None = None) -> Progress:
    """Nothing if ``quiet`` (``--json``), live if ``stream`` (stdout) is a terminal, else a line per step."""
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

    def close(self) -> None:
        """Nothing to stop."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:  # fmt: skip
        self.close()


class PlainProgress(QuietProgress):
    """A line per step; phases only until the first step, while there is nothing else to see."""

    def __init__(self, name: str, stream: TextIO) -> None:
        self._name, self._stream = name, stream
        self._pace = _Pace()
        self._stepped = False

    def phase(self, name: str) -> None:
        """A line of its own before the first step."""
        if not self._stepped:
            self._write(f"{self._name}: {name}")

    def step(self, step: int, total: int | None, metrics: Mapping[str, float]) -> None:
        """``ppo-tiny: step 3/100  score 0.12  kl 0.01  1,230 tokens/s  2 min left``."""
        self._stepped = True
        self._pace.observe(step)
        where = f"{step}/{total}" if total else f"{step}"
        parts = [f"{self._name}: step {where}", *headlines(metrics)]
        left = self._pace.left(step, total)
        if left is not None:
            parts.append(f"{duration(left)} left")
        self._write("  ".join(parts))

    def _write(self, line: str) -> None:
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


def duration(seconds: float) -> str:
    """``45 s``, ``12 min``, ``3 h 05 min``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


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
