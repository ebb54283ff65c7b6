"""The flight recorder: ``RUN/flight.jsonl``, what went into every optimizer step of every rank and what came out.

A line a step, role and rank. Digests are numbers that are equal where the bits are (``workers.digests``), written in
hexadecimal; those of samples may be added up modulo 2^64 over ranks. Norms are the rank's own share: see
``engine.layer_norms``. ``distft bisect`` compares two such files.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from distft.common.files import keep_lines, parse_json
from distft.tracking.metrics import Ledger, line_step, number_or_word

FLIGHT = "flight.jsonl"
FORMAT = 1
MOST_BYTES = 64 * 2**20  # of the file: then every second step of it goes, and of those to come
MOST_SAMPLES = 256  # of a rank's optimizer step that are told one by one
_log = logging.getLogger(__name__)


class ColumnTrace(NamedTuple):
    """A column over a rank's samples: its digest; of numbers that are no whole ones their sum, and that of their
    absolute values."""

    digest: int
    total: float | None = None
    size: float | None = None


@dataclass(frozen=True)
class StepTrace:
    """An optimizer step on a rank.

    ``micro_batches``: numbers of samples, and ``samples``: digests of the inputs of each in that order, in their lower
    half of the tokens, masks and other whole numbers, in the upper one of all else; None: there were more than
    ``MOST_SAMPLES``. ``inputs`` and ``outputs`` (of the model) by the names of columns; ``loss``: the rank's share;
    ``gradients`` (before clipping; None: the step was passed over) and ``weights`` (after it) by groups of layers;
    ``before``: the weights before the first step since the rank was built.
    """

    micro_batches: tuple[tuple[int, ...], ...] | None
    samples: tuple[int, ...] | None
    inputs: Mapping[str, ColumnTrace]
    outputs: Mapping[str, ColumnTrace]
    loss: float
    gradients: Mapping[str, float] | None
    weights: Mapping[str, float]
    before: Mapping[str, float] | None = None


@dataclass(frozen=True)
class RankTrace:
    """The optimizer steps of one step (of an RL iteration several) on a rank. ``shared_by`` ranks compute the same
    rows."""

    zero_stage: int
    shared_by: int
    dtype: str
    updates: tuple[StepTrace, ...]


class FlightLog:
    """The file, cut as ``MetricsLog``. It never stops a run: what cannot be written is left out, and said once.

    Raises OSError if the file cannot be cut.
    """

    def __init__(self, run_dir: Path, resume_step: int | None, most_bytes: int = MOST_BYTES) -> None:
        self._path, self._most_bytes = run_dir / FLIGHT, most_bytes
        keep_lines(self._path, lambda line: resume_step is not None and line_step(line) <= resume_step)
        self._every = 1
        self._ledger: Ledger | None = None

    def write(self, step: int, role: str, ranks: Sequence[RankTrace]) -> None:
        """Adds a line for each rank of a role that records; none of a step that is left out to keep the file small."""
        if not ranks or not self._every or step % self._every:
            return
        try:
            if self._ledger is None:
                self._ledger = Ledger(self._path, synced=False)
            self._ledger.add(*(_as_json(step, role, rank, len(ranks), trace) for rank, trace in enumerate(ranks)))
            if self._path.stat().st_size > self._most_bytes:
                self._thin()
        except OSError as error:
            _log.warning("%s is not written further: %s", FLIGHT, error)
            self._every = 0

    def close(self) -> None:
        """Closes the file."""
        if self._ledger is not None:
            self._ledger.close()
            self._ledger = None

    def _thin(self) -> None:
        self.close()
        self._every *= 2
        keep_lines(self._path, lambda line: line_step(line) % self._every == 0)


def read_flight(run_dir: Path) -> dict[int, dict[str, tuple[RankTrace, ...]]]:
    """By step and role the ranks' traces; a step of which a rank's line is missing or damaged is left out. Raises
    OSError where the file cannot be read."""
    found: dict[tuple[int, str], dict[int, tuple[int, RankTrace]]] = {}
    with (run_dir / FLIGHT).open("rb") as file:
        for step, role, rank, count, trace in filter(None, map(_read, file)):
            found.setdefault((step, role), {})[rank] = (count, trace)
    steps: dict[int, dict[str, tuple[RankTrace, ...]]] = {}
    torn = set()
    for (step, role), ranks in found.items():
        whole = sorted(ranks) == list(range(ranks[min(ranks)][0]))
        if whole and len({len(trace.updates) for _, trace in ranks.values()}) == 1:
            steps.setdefault(step, {})[role] = tuple(ranks[rank][1] for rank in sorted(ranks))
        else:
            torn.add(step)
    return {step: steps[step] for step in sorted(steps) if step not in torn}


def _as_json(step: int, role: str, rank: int, count: int, trace: RankTrace) -> dict[str, Any]:
    return {
        "format": FORMAT, "step": step, "role": role, "rank": rank, "ranks": count, "zero_stage": trace.zero_stage,
        "shared_by": trace.shared_by, "dtype": trace.dtype, "updates": [_of_update(one) for one in trace.updates],
    }  # fmt: skip


def _of_update(trace: StepTrace) -> dict[str, Any]:
    line: dict[str, Any] = {}
    if trace.micro_batches is not None and trace.samples is not None:
        line |= {"micro_batches": trace.micro_batches, "samples": "".join(f"{one:016x}" for one in trace.samples)}
    for name, columns in (("inputs", trace.inputs), ("outputs", trace.outputs)):
        line[name] = {column: _of_column(one) for column, one in columns.items()}
    line["loss"] = number_or_word(trace.loss)
    for name in ("gradients", "weights", "before"):
        norms = getattr(trace, name)
        if norms is not None:
            line[name] = {group: number_or_word(norm) for group, norm in norms.items()}
    return line


def _read(line: bytes) -> tuple[int, str, int, int, RankTrace] | None:
    try:
        told = parse_json(line)
        updates = tuple(_update_of(one) for one in told["updates"])
        trace = RankTrace(int(told["zero_stage"]), max(1, int(told["shared_by"])), str(told["dtype"]), updates)
        return int(told["step"]), str(told["role"]), int(told["rank"]), int(told["ranks"]), trace
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError):
        return None


def _update_of(line: Mapping[str, Any]) -> StepTrace:
    told = line.get("micro_batches")
    digests = line.get("samples", "")
    return StepTrace(
        None if told is None else tuple(tuple(map(int, micro)) for micro in told),
        None if told is None else tuple(int(digests[at : at + 16], 16) for at in range(0, len(digests), 16)),
        {str(name): _column_of(told) for name, told in line["inputs"].items()},
        {str(name): _column_of(told) for name, told in line["outputs"].items()},
        float(line["loss"]),
        _norms(line, "gradients"),
        _norms(line, "weights") or {},
        _norms(line, "before"),
    )


def _of_column(column: ColumnTrace) -> str | list[float | str]:
    digest = f"{column.digest:016x}"
    if column.total is None or column.size is None:
        return digest
    return [digest, number_or_word(column.total), number_or_word(column.size)]


def _column_of(told: str | list[Any]) -> ColumnTrace:
    if isinstance(told, str):
        return ColumnTrace(int(told, 16))
    digest, total, size = told
    return ColumnTrace(int(digest, 16), float(total), float(size))


def _norms(line: Mapping[str, Any], name: str) -> dict[str, float] | None:
    return {str(group): float(norm) for group, norm in line[name].items()} if name in line else None
