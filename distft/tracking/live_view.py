"""The live view of a run on a terminal: where it is, what each group does, the numbers that matter and their course.

::

    ppo-tiny  update ━━━━━━━━━━━━━━━╸━━━━━━━━━ 12/30  21 s left
    policy    2 ranks  training   12 s      score     1.456  ▁▂▂▃▅▆▇█
    reference 2 ranks  idle                 kl        3.278  ▁▁▂▄▅▇█▇
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any, TextIO, TypeAlias, cast

from rich.console import Console, ConsoleOptions, OverflowMethod, RenderResult
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from distft.tracking.pace import Pace
from distft.tracking.progress import GroupState, QuietProgress, duration, headline_values, said_held_out

SEEN = 32  # the last steps of a metric that are drawn
_WIDE = 110  # columns from which groups and metrics stand beside each other
_ALARMS = 2
_BLOCKS, _PLAIN_BLOCKS = "▁▂▃▄▅▆▇█", "_.-=+*%#"
_STYLES = {"idle": "dim", "asleep": "dim"}
_GAP = 2  # columns between cells
_BAR = 8, 24  # columns at least and at most
_GROUP_CELLS = 4  # role, ranks, doing, since

_Row: TypeAlias = tuple[Text | str | ProgressBar, ...]
States: TypeAlias = Callable[[], Mapping[str, GroupState]]


@dataclass
class _Shown:
    """What is on the screen. Drawn by a thread of its own: what changes is replaced whole."""

    name: str
    phase: str = ""
    step: int = 0
    total: int | None = None
    left: float | None = None
    courses: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    alarms: tuple[str, ...] = ()
    states: States = dict

    def __rich_console__(self, _console: Console, options: ConsoleOptions) -> RenderResult:
        blocks = _PLAIN_BLOCKS if options.ascii_only else _BLOCKS
        yield self._head(options)
        groups, numbers = self._groups(), self._numbers(blocks)
        if options.max_width >= _WIDE and groups:
            beside = zip_longest(groups, numbers, fillvalue=())
            yield _grid([(*(group or ("",) * _GROUP_CELLS), " " * 4, *number) for group, number in beside])
        else:
            yield from (_grid(rows) for rows in (groups, numbers) if rows)
        for alarm in self.alarms:
            cut: OverflowMethod = "crop" if options.ascii_only else "ellipsis"
            yield Text(alarm, style="bold yellow", overflow=cut, no_wrap=True)

    def _head(self, options: ConsoleOptions) -> Table:
        """One line: where there is little room the bar is short, and then the phase is cut."""
        name, phase = Text(self.name, style="bold"), Text(self.phase)
        step = Text(f"{self.step:,}/{self.total:,}" if self.total else f"{self.step:,}" if self.step else "")
        left = Text("" if self.left is None else f"{duration(self.left)} left")
        texts = [text for text in (name, phase, step, left) if text]
        room = options.max_width - sum(_GAP + text.cell_len for text in texts)
        width = max(min(room, _BAR[1]), _BAR[0])
        phase.truncate(max(1, phase.cell_len + room - width), overflow="crop" if options.ascii_only else "ellipsis")
        bar = ProgressBar(total=self.total, completed=self.step, width=width, pulse=self.total is None)
        return _grid([tuple(part for part in (name, phase, bar, step, left) if part is bar or part)])

    def _groups(self) -> list[_Row]:
        rows, now = list[_Row](), time.monotonic()
        for role, group in self.states().items():
            since = "" if group.since is None or now - group.since < 1 else duration(now - group.since)
            ranks = f"{group.ranks} rank{'s' if group.ranks > 1 else ''}"
            doing = Text(group.doing, style=_STYLES.get(group.doing, "green"))
            rows.append((role, Text(ranks, style="dim"), doing, since))
        return rows

    def _numbers(self, blocks: str) -> list[_Row]:
        return [
            (label, Text(f"{course[-1]:,.4g}", justify="right"), sparkline(course, blocks))
            for label, course in self.courses.items()
        ]


def _grid(rows: Sequence[_Row]) -> Table:
    """Cells below each other, as wide as they are."""
    table = Table.grid(padding=(0, _GAP))
    for _ in range(max(map(len, rows))):
        table.add_column(no_wrap=True)
    for row in rows:
        table.add_row(*row)
    return table


class _Patient:
    """A terminal that may be closed: what is written then is lost."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError, ValueError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class LiveProgress(QuietProgress):
    """Some lines that are redrawn, below whatever else is printed. The run goes on where ``stream`` goes away."""

    def __init__(self, name: str, stream: TextIO) -> None:
        self._pace = Pace()
        self._shown = _Shown(name, "starting")
        console = Console(file=cast(TextIO, _Patient(stream)))
        self._live = Live(self._shown, console=console, refresh_per_second=4, transient=False)
        self._open = True
        self._live.start()

    def watch(self, states: States) -> None:
        """What the groups do is asked of ``states``, whenever it is drawn."""
        self._shown.states = states

    def phase(self, name: str) -> None:
        """Shown before the bar."""
        self._shown.phase = name

    def step(self, step: int, total: int | None, metrics: Mapping[str, float]) -> None:
        """The bar, the numbers, and the time left."""
        self._pace.observe(step)
        self._shown.step, self._shown.total, self._shown.left = step, total, self._pace.left(step, total)
        former = self._shown.courses
        now = {label: (*former.get(label, ()), value)[-SEEN:] for label, value in headline_values(metrics).items()}
        self._shown.courses = {**former, **now}

    def held_out(self, step: int, metrics: Mapping[str, float]) -> None:
        """A line above."""
        self.note(said_held_out(step, metrics))

    def note(self, text: str) -> None:
        """A line above."""
        self._live.console.print(text, markup=False, highlight=False)

    def alarm(self, text: str) -> None:
        """A line above, and one that stays."""
        self.note(text)
        self._shown.alarms = (*self._shown.alarms, text)[-_ALARMS:]

    def close(self) -> None:
        """Leave the last state on the screen and show the cursor again."""
        if self._open:
            self._open = False
            self._shown.states = dict
            self._live.stop()


def sparkline(values: Sequence[float], blocks: str = _BLOCKS) -> str:
    """The course of a number from its least to its greatest; a point is a space where the value is not finite."""
    finite = [value for value in values if abs(value) < float("inf")]
    low, high = min(finite, default=0.0), max(finite, default=0.0)
    scale = (len(blocks) - 1) / (high - low) if high > low else 0.0
    return "".join(blocks[round((value - low) * scale)] if abs(value) < float("inf") else " " for value in values)
