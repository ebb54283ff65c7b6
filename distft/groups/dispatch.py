"""What a verb's call carries to each rank and brings back. Pure: numpy and plain values, no Ray."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from distft.batches import Batch, Column, Ragged, concatenate
from distft.common.errors import DistftError
from distft.groups.handles import Call, DataRef, Part

# ---- to a rank


@dataclass(frozen=True)
class Request:
    """What one rank of a role is asked. ``layout``: how many parts each DataRef sent; None = no data at all."""

    role: str
    verb: str
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    keep_report: bool
    samples: tuple[int, ...] | None
    layout: tuple[int, ...] | None
    deadline_s: float


def request_for(call: Call[Any], rank: int, deadline_s: float) -> tuple[Request, tuple[Part, ...]]:
    """What ``rank`` is sent for ``call``: the request, and the parts that hold its samples."""
    samples = None if call.samples is None else call.samples[rank]
    sources = call.data if samples is None else tuple(source.select(samples) for source in call.data)
    request = Request(
        role=call.group.role,
        verb=call.verb.name,
        args=call.args + (() if call.each is None else call.each[rank]),
        kwargs=call.kwargs,
        keep_report=call.verb.reports == "first" and rank > 0,
        samples=samples,
        layout=tuple(len(source.parts) for source in sources) if call.data else None,
        deadline_s=deadline_s,
    )
    return request, tuple(part for source in sources for part in source.parts)


def regroup(parts: Sequence[Batch], layout: Sequence[int]) -> list[list[Batch]]:
    """The flat parts of a request as one list per DataRef."""
    ends = np.cumsum(np.asarray(layout, np.int64))
    return [list(parts[end - size : end]) for size, end in zip(layout, ends.tolist(), strict=True)]


def assemble(sources: Sequence[Sequence[Batch]], samples: Sequence[int] | None) -> Batch:
    """One batch of the rows ``samples``, in that order, with the columns of all sources.

    ``samples`` None means every row of the first source, in its order. Columns of several sources
    lie side by side; one that occurs in two must agree (``sample`` always does). Arrays are copied
    only where rows are left out, reordered or come from several parts.
    Raises ValueError for a sample that is missing or occurs twice, and for columns that disagree.
    """
    if samples is None:
        rows = [part.dense("sample") for part in sources[0]] if sources else []
        asked = np.concatenate(rows) if rows else np.zeros(0, np.int64)
    else:
        asked = np.asarray(samples, dtype=np.int64)
    columns: dict[str, Column] = {"sample": asked}
    if not len(asked):
        return Batch(columns)
    for source in sources:
        for name, column in _rows_of(source, asked).columns.items():
            if name in columns and not _equal(columns[name], column):
                raise ValueError(f"column {name!r} comes from two results that disagree")
            columns[name] = column
    return Batch(columns)


def _rows_of(parts: Sequence[Batch], asked: npt.NDArray[np.int64]) -> Batch:
    """The asked rows out of the parts of one source."""
    taken: list[Batch] = []
    for part in parts:
        needed = np.isin(part.dense("sample"), asked)
        if needed.any():
            taken.append(part if needed.all() else part.take(np.flatnonzero(needed)))
    there = np.concatenate([part.dense("sample") for part in taken]) if taken else np.zeros(0, np.int64)
    order = np.argsort(there, kind="stable")
    ordered = there[order]
    if len(ordered) > 1 and (ordered[1:] == ordered[:-1]).any():
        raise ValueError(f"sample {int(ordered[:-1][ordered[1:] == ordered[:-1]][0])} occurs twice")
    missing = np.setdiff1d(asked, there)
    if len(missing):
        raise ValueError(f"sample {int(missing[0])} is in none of the parts ({len(missing)} missing in all)")
    rows = order[np.searchsorted(ordered, asked)]
    joined = taken[0] if len(taken) == 1 else concatenate(taken)
    return joined if np.array_equal(rows, np.arange(len(there))) else joined.take(rows)


def _equal(a: Column, b: Column) -> bool:
    if isinstance(a, Ragged) and isinstance(b, Ragged):
        return np.array_equal(a.offsets, b.offsets) and np.array_equal(a.values, b.values)
    return not isinstance(a, Ragged) and not isinstance(b, Ragged) and np.array_equal(a, b)


# ---- from a rank


@dataclass(frozen=True)
class Failure:
    """An exception in a verb. ``expected`` is set where it goes to the user as itself."""

    cause: str
    kind: str
    time: float
    stage: str = ""
    expected: DistftError | None = None


@dataclass(frozen=True)
class Outcome:
    """The small half of a rank's answer; the batch, if any, stays in the object store.

    ``samples`` are those of that batch, None without one. ``ended``: when, in unix seconds. ``peaks``: bytes that the
    verb took of the device at most, by what holds them; none without a device.
    """

    report: Any = None
    samples: tuple[int, ...] | None = None
    seconds: float = 0.0
    ended: float = 0.0
    failure: Failure | None = None
    peaks: Mapping[str, int] = field(default_factory=dict)


def samples_of(batch: Batch | None) -> tuple[int, ...] | None:
    """The samples a result holds; ValueError if it does not say."""
    if batch is None:
        return None
    if not len(batch):
        return ()
    if "sample" not in batch:
        raise ValueError(f"the batch has no column 'sample', only {sorted(batch.columns)}")
    return tuple(batch.dense("sample").tolist())


def collect(outcomes: Sequence[Outcome], refs: Sequence[Any]) -> DataRef | None:
    """The data of a call out of every rank's answer; None if no rank returned a batch."""
    if all(outcome.samples is None for outcome in outcomes):
        return None
    pairs = zip(refs, outcomes, strict=True)
    return DataRef(tuple(Part(ref, outcome.samples) for ref, outcome in pairs if outcome.samples))
