"""The ledgers of a run: metrics.jsonl, events.jsonl, samples.jsonl. Always written, synced line by line.

Every line is valid JSON with ``"format": 1``. JSON has no NaN: such a value is written as null and
named under ``"nonfinite"``, e.g. ``{"loss": null, "nonfinite": {"loss": "nan"}}``.
"""

from __future__ import annotations

import logging
import math
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from distft.common.files import JsonlWriter, keep_lines

FORMAT = 1
METRICS = "metrics.jsonl"
EVENTS = "events.jsonl"
SAMPLES = "samples.jsonl"
# Beside them in the run folder: what was asked for, how it was laid out, and what came of it on held-out rows.
RECIPE, PLAN, BEFORE_AFTER = "recipe.yaml", "plan.json", "before_after.json"
# What stands in the folder of an evaluation in their place.
EVALUATION = "evaluation.json"
Split = Literal["train", "eval"]

_RESERVED = frozenset({"format", "step", "time", "split", "nonfinite"})
_NONFINITE = {"inf": math.inf, "-inf": -math.inf}  # else NaN
_MAX_PENDING = 10_000
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class MetricRecord:
    """The numbers of one step: ``values`` by the names of the glossary; ``time`` in unix seconds."""

    step: int
    split: Split
    values: Mapping[str, float]
    time: float = field(default_factory=time.time)

    def as_json(self) -> dict[str, Any]:
        """The line's content. Raises ValueError for a metric named like one of the line's own keys."""
        taken = _RESERVED & self.values.keys()
        if taken:
            raise ValueError(f"not names for metrics: {', '.join(sorted(taken))}")
        numbers, nonfinite = finite_or_null(self.values)
        line: dict[str, Any] = {"format": FORMAT, "step": self.step, "time": self.time, "split": self.split, **numbers}
        return {**line, "nonfinite": nonfinite} if nonfinite else line


@dataclass(frozen=True)
class Sample:
    """A prompt, what the policy made of it, its score (None: nothing scores), and the answer that the row itself gives
    (None: it gives none). Of a row's answers that a reward model scores, ``side`` says which this is. ``turns``: who
    said which part of the completion, where an environment answered (None: it is the policy's alone)."""

    prompt: str
    completion: str
    score: float | None = None
    wanted: str | None = None
    side: str | None = None
    turns: tuple[tuple[str, str], ...] | None = None


class Ledger:
    """A JSON-lines file that never stops a run: lines a full disk refuses wait in memory. ``synced``: see
    ``JsonlWriter``."""

    def __init__(self, path: Path, *, synced: bool = True) -> None:
        self._writer = JsonlWriter(path, synced=synced)
        self._pending: deque[dict[str, Any]] = deque(maxlen=_MAX_PENDING)
        self._failing = False

    def add(self, *records: dict[str, Any]) -> None:
        """Raises ValueError or TypeError where one of the records is not JSON: none of them is kept."""
        self._pending.extend(records)
        try:
            self._writer.append(*self._pending)
        except OSError as error:
            if not self._failing:
                _log.error("%s cannot be written (%s): lines wait in memory, the run goes on", self._writer.path, error)
            self._failing = True
            return
        except (ValueError, TypeError):
            for _ in records:
                self._pending.pop()
            raise
        if self._failing:
            _log.warning("%s can be written again: %d lines caught up", self._writer.path, len(self._pending))
        self._failing = False
        self._pending.clear()

    def close(self) -> None:
        """Close the file."""
        if self._pending:
            _log.error("%s: %d lines could not be written", self._writer.path, len(self._pending))
        self._writer.close()


class MetricsLog:
    """``RUN/metrics.jsonl``: a line per optimizer step or RL iteration, and per evaluation.

    ``resume_step``: the step of the checkpoint the run goes on from; lines after it, of both splits,
    are cut off atomically. None: the run starts from the beginning, and so does the file.
    ``on_kept`` is called with each line that stays. Raises OSError if the file cannot be opened or cut.
    """

    def __init__(
        self, run_dir: Path, resume_step: int | None, on_kept: Callable[[Mapping[str, Any]], None] = lambda _: None
    ) -> None:
        path = run_dir / METRICS
        self._written: set[tuple[int, str]] = set()

        def keep(line: dict[str, Any]) -> bool:
            kept = resume_step is not None and line_step(line) <= resume_step
            if kept:
                self._written.add((line["step"], str(line.get("split"))))
                on_kept(line)
            return kept

        self.num_cut = keep_lines(path, keep)
        if self.num_cut:
            _log.info("%s: %d lines after step %s cut off", path, self.num_cut, resume_step)
        self._ledger = Ledger(path)

    def write(self, record: MetricRecord) -> bool:
        """Add one line. A disk that refuses it is reported once; the line is written later.

        A step has one line of each split: the evaluation at its end may be due twice, or again after a resume. Returns
        whether this is it.
        """
        if (record.step, record.split) in self._written:
            return False
        self._ledger.add(record.as_json())
        self._written.add((record.step, record.split))
        return True

    def close(self) -> None:
        """Close the file."""
        self._ledger.close()


class EventsLog:
    """``RUN/events.jsonl``: start, group_ready, checkpoint, failure, restart, replaced, resume, stop. Never cut."""

    def __init__(self, run_dir: Path, attempt: int) -> None:
        self._ledger = Ledger(run_dir / EVENTS)
        self.attempt = attempt

    def write(self, event: str, **fields: Any) -> None:
        """Add ``{"format", "time", "event", "attempt", **fields}``; what JSON cannot hold is written as text."""
        line = {"format": FORMAT, "time": time.time(), "event": event, "attempt": self.attempt, **fields}
        self._ledger.add({name: _plain(value) for name, value in line.items()})

    def close(self) -> None:
        """Close the file."""
        self._ledger.close()


class SamplesLog:
    """``RUN/samples.jsonl``: what the policy says, now and then. Lines carry the attempt; never cut."""

    def __init__(self, run_dir: Path, attempt: int) -> None:
        self._ledger = Ledger(run_dir / SAMPLES)
        self.attempt = attempt

    def write(self, step: int, samples: Sequence[Sample], split: Split = "train") -> None:
        """Add a line per sample; ``split``: whether its prompt is one of training or held out."""
        for sample in samples:
            score = sample.score if sample.score is not None and math.isfinite(sample.score) else None
            turns = sample.turns and [{"by": by, "text": text} for by, text in sample.turns]
            more = {"wanted": sample.wanted, "side": sample.side, "turns": turns}
            told = {name: value for name, value in more.items() if value is not None}
            self._ledger.add({"format": FORMAT, "attempt": self.attempt, "step": step, "time": time.time(),
                              "split": split, "prompt": sample.prompt, "completion": sample.completion,
                              "score": score, **told})  # fmt: skip

    def close(self) -> None:
        """Close the file."""
        self._ledger.close()


def finite_or_null(values: Mapping[str, float]) -> tuple[dict[str, float | int | None], dict[str, str]]:
    """Plain numbers, null for those that are not finite; and what these were (nan, inf, -inf)."""
    numbers: dict[str, float | int | None] = {}
    nonfinite: dict[str, str] = {}
    for name, value in values.items():
        number = int(value) if isinstance(value, int) else float(value)
        if math.isfinite(number):
            numbers[name] = number
        else:
            numbers[name], nonfinite[name] = None, str(number)
    return numbers, nonfinite


def number_or_word(value: float) -> float | str:
    """JSON has no NaN and no infinity: these are words, which ``float`` reads."""
    return value if math.isfinite(value) else str(value)


def numbers_of(line: Mapping[str, Any]) -> dict[str, float]:
    """The metrics of a line of metrics.jsonl, those that are not finite among them."""
    named = line.get("nonfinite")
    said: Mapping[str, Any] = named if isinstance(named, dict) else {}
    return {
        name: _NONFINITE.get(str(said.get(name)), math.nan) if value is None else float(value)
        for name, value in line.items()
        if name not in _RESERVED and (value is None or isinstance(value, int | float)) and not isinstance(value, bool)
    }


def _plain(value: Any) -> Any:
    """The value as JSON: events are written while things go wrong, and must not add an error of their own."""
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(inner) for inner in value]
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return number_or_word(value)
    return str(value)


def line_step(line: Mapping[str, Any]) -> float:
    """The step of a ledger's line; infinity where it names none."""
    step = line.get("step")
    return step if isinstance(step, int) else math.inf
