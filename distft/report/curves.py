"""The numbers of metrics.jsonl as curves: read line by line, thinned to what a chart can show."""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from distft.common.files import parse_json
from distft.tracking.metrics import numbers_of

Numbers = npt.NDArray[np.float64]
MAX_POINTS = 1000  # of a curve in a page: more than a screen has columns


@dataclass
class Curve:
    """A metric of one split: ``values`` by ``steps``; NaN and infinite where the run's own numbers were."""

    steps: array[float] = field(default_factory=lambda: array("d"))
    values: array[float] = field(default_factory=lambda: array("d"))

    def add(self, step: float, value: float) -> None:
        """The next point."""
        self.steps.append(step)
        self.values.append(value)

    @property
    def x(self) -> Numbers:
        """Steps, as they come in the file."""
        return np.frombuffer(self.steps, np.float64)

    @property
    def y(self) -> Numbers:
        """Values, of the same length."""
        return np.frombuffer(self.values, np.float64)

    @property
    def finite(self) -> Numbers:
        """The values that are numbers."""
        found: Numbers = self.y[np.isfinite(self.y)]
        return found

    @property
    def not_finite(self) -> list[int]:
        """The steps whose value is NaN or infinite."""
        return [int(step) for step in self.x[~np.isfinite(self.y)]]


@dataclass(frozen=True)
class Ledger:
    """All curves, by split and metric. ``num_torn``: lines that are not JSON objects with a step; ``stride``: of the
    training steps every so manieth was read; ``newer``: the file's format is one that this version does not know.
    """

    curves: Mapping[str, Mapping[str, Curve]]
    num_steps: int = 0
    num_torn: int = 0
    stride: int = 1
    newer: bool = False

    def of(self, split: str) -> Mapping[str, Curve]:
        """The curves of ``train`` or ``eval``."""
        return self.curves.get(split, {})


def read_ledger(path: Path, known_format: int, max_lines: int | None = None) -> Ledger:
    """``max_lines``: of a longer file training lines are read at even distances, evaluations all the same. A file that
    is missing, or cannot be read, has no curves."""
    num_lines = _count(path)
    stride = 1 if max_lines is None else max(1, math.ceil(num_lines / max_lines))
    curves: dict[str, dict[str, Curve]] = {}
    torn, newer, last = 0, False, set[int]()
    for number, line in enumerate(_raw(path)):
        if stride > 1 and number % stride and number < num_lines - 1 and b'"split": "eval"' not in line:
            continue
        record = _record(line)
        if record is None:
            torn += 1
            continue
        newer = newer or _greater(record.get("format"), known_format)
        split = str(record.get("split", "train"))
        if split == "train":
            last.add(int(record["step"]))
        mine = curves.setdefault(split, {})
        for name, value in numbers_of(record).items():
            mine.setdefault(name, Curve()).add(float(record["step"]), value)
    return Ledger(curves, max(last, default=0), torn, stride, newer)


def thinned(x: Numbers, y: Numbers, most: int = MAX_POINTS) -> tuple[list[float], list[float | None]]:
    """At most about ``most`` points, the lowest and highest of each stretch among them, so that no spike is lost. What
    is not finite becomes None: a gap."""
    if len(x) > most:
        kept = {0, len(x) - 1}
        for part in np.array_split(np.arange(len(x)), most // 2):
            numbers = part[np.isfinite(y[part])]
            chosen = numbers if len(numbers) else part
            kept |= {int(chosen[np.argmin(y[chosen])]), int(chosen[np.argmax(y[chosen])])}
        index = np.array(sorted(kept))
        x, y = x[index], y[index]
    return [_short(one) for one in x], [_short(one) if math.isfinite(one) else None for one in y]


def _short(number: float) -> float:
    """Six figures: more than anyone can see, and half the bytes."""
    return int(number) if float(number).is_integer() and abs(number) < 1e15 else float(f"{number:.6g}")


def _raw(path: Path) -> Iterator[bytes]:
    try:
        with path.open("rb") as file:
            yield from file
    except OSError:
        return


def _count(path: Path) -> int:
    return sum(1 for _ in _raw(path))


def _record(line: bytes) -> dict[str, Any] | None:
    try:
        record = parse_json(line)
    except ValueError:
        return None
    if not isinstance(record, dict) or not _is_number(record.get("step")) or not math.isfinite(record["step"]):
        return None
    return record


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _greater(found: Any, known: int) -> bool:
    return _is_number(found) and found > known
