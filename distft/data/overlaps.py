"""Rows that say nearly what a row says that judges: found by runs of tokens that both hold. Numpy only.

Runs of 13, as in Brown et al. 2020 (GPT-3), appendix C, which counts words. Runs that many judged rows hold are a
template's or a system prompt's, and tell nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

from distft.data.stored_rows import StoredRows

log = logging.getLogger(__name__)

Rows: TypeAlias = npt.NDArray[np.int64]
Numbers: TypeAlias = npt.NDArray[np.uint64]

RUN: Final = 13  # tokens
SHARE: Final = 0.5  # of a judged row's runs, from which on another row is nearly the same
FEWEST: Final = 8  # runs of a judged row: of less, 20 tokens, half says nothing
COMMON: Final = 10  # judged rows that may hold a run
MOST_TOKENS: Final = 2**27  # of a source: what comes behind is not looked at
_LAST_BUCKET: Final = np.uint64(2**24 - 1)
_FACTOR: Final = np.uint64(0x9E3779B97F4A7C15)  # odd: multiplying by it loses nothing modulo 2^64


@dataclass(frozen=True)
class Alike:
    """How many rows are nearly the same as rows that judge; where the first of them stands, and its like."""

    count: int
    first: str
    judged: str


@dataclass(frozen=True)
class _Judged:
    """The runs of judged rows, sorted, and whose each is; ``totals``: how many each judged row has. ``likely``: the
    buckets in which there is a run: most of what is asked is in none, and need not be looked for."""

    runs: Numbers
    owners: Rows
    totals: Rows
    likely: npt.NDArray[np.bool_]


def near_duplicates(
    parts: Sequence[tuple[StoredRows, Rows]], judges: Sequence[tuple[StoredRows, Rows]]
) -> Alike | None:
    """Those among the rows of several sources; None where there is none."""
    count, first, judged_runs = 0, ("", ""), _judged(judges)
    for source, rows in parts if len(judged_runs.runs) else ():
        like = _overlaps(source, rows, judged_runs)
        places = np.flatnonzero(like >= 0)
        if len(places) and not count:
            judge, row = [(judge, int(row)) for judge, judged in judges for row in judged][int(like[places[0]])]
            first = (source.example(int(rows[places[0]])).where, judge.example(row).where)
        count += len(places)
    return Alike(count, *first) if count else None


def _overlaps(source: StoredRows, rows: Rows, judged: _Judged) -> Rows:
    """For each of the rows the judged row (counted through all judges) of whose runs it holds at least ``SHARE``, the
    one of which it holds most; -1 where there is none."""
    found, num_tokens = np.full(len(source), -1, np.int64), 0
    for numbers, owners, size in _batches(source):
        num_tokens += size
        if num_tokens > MOST_TOKENS:
            log.info("near leakage: the first %s tokens of a source are compared, the rest is not", f"{MOST_TOKENS:,}")
            break
        _mark(found, numbers, owners, judged)
    return found[rows]


def _judged(judges: Sequence[tuple[StoredRows, Rows]]) -> _Judged:
    runs, owners, before = [np.zeros(0, np.uint64)], [np.zeros(0, np.int64)], 0
    for source, rows in judges:
        place = np.full(len(source), -1, np.int64)
        place[rows] = before + np.arange(len(rows))
        for numbers, row, _ in _batches(source):
            wanted = place[row] >= 0
            runs.append(numbers[wanted])
            owners.append(place[row[wanted]])
        before += len(rows)
    pairs = np.unique(_pairs(np.concatenate(runs), np.concatenate(owners)))
    _, which, counts = np.unique(pairs["run"], return_inverse=True, return_counts=True)
    rare = pairs[counts[which] <= COMMON] if len(pairs) else pairs
    totals = np.bincount(rare["row"], minlength=before)
    enough = rare[totals[rare["row"]] >= FEWEST]
    likely = np.zeros(int(_LAST_BUCKET) + 1, np.bool_)
    likely[enough["run"] & _LAST_BUCKET] = True
    return _Judged(enough["run"].copy(), enough["row"].copy(), totals, likely)


def _mark(found: Rows, numbers: Numbers, rows: Rows, judged: _Judged) -> None:
    """Writes the judged row of each row that holds enough of one."""
    likely = np.flatnonzero(judged.likely[numbers & _LAST_BUCKET])
    held = np.unique(_pairs(numbers[likely], rows[likely]))
    start = np.searchsorted(judged.runs, held["run"], side="left")
    count = np.searchsorted(judged.runs, held["run"], side="right") - start
    inner = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
    pairs = np.stack([np.repeat(held["row"], count), judged.owners[np.repeat(start, count) + inner]], axis=1)
    both, shared = np.unique(pairs, axis=0, return_counts=True)
    share = shared / np.maximum(judged.totals[both[:, 1]], 1)
    for row, owner in both[np.argsort(share, kind="stable")][np.sort(share) >= SHARE]:
        found[row] = owner


def _pairs(runs: Numbers, rows: Rows) -> npt.NDArray[np.void]:
    """A run and its row each, ordered by run first."""
    made = np.empty(len(runs), np.dtype([("run", np.uint64), ("row", np.int64)]))
    made["run"], made["row"] = runs, rows
    return made


def _batches(source: StoredRows) -> Iterator[tuple[Numbers, Rows, int]]:
    """The runs of a source's rows and the row of each, part by part, with the tokens of the part."""
    for prompts, responses in zip(source.parts("prompt_ids"), source.parts("response_ids"), strict=True):
        both = [_runs(*part) for part in (prompts, responses)]
        size = len(prompts[0]) + len(responses[0])
        yield np.concatenate([runs for runs, _ in both]), np.concatenate([rows for _, rows in both]), size


def _runs(tokens: npt.NDArray[np.int32], offsets: Rows, first: int) -> tuple[Numbers, Rows]:
    """A number for each run of tokens within a row, and its row; ``first``: the number of the first row."""
    count = max(0, len(tokens) - RUN + 1)
    numbers = np.zeros(count, np.uint64)
    for place in range(RUN):
        numbers = numbers * _FACTOR + tokens[place : place + count].astype(np.uint64)  # modulo 2^64
    row = np.repeat(np.arange(first, first + len(offsets) - 1), np.diff(offsets))
    within = row[:count] == row[RUN - 1 : RUN - 1 + count]
    return numbers[within], row[:count][within]
