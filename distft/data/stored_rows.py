"""Tokenised rows as Arrow: one record a row of the source, rows that are left out among them.

==================  ========================================================================
where               place of the row, ``file:line``
example             what it says, as JSON; null where the row was unusable
key                 ``prompt_key``, 16 bytes; null where the row was unusable
asked, answered,    ``Traces``, for the leakage guard
num_own
dropped             why nothing can be learned from the row; null where something can
bad                 what is wrong with the row, as JSON; null where nothing is
truncated, moved    see ``Statistics``
prompt_lengths      int32, tokens of each of its sequences: 1, or 2 for a pair
response_lengths    (chosen, rejected); none where the row is left out
prompt_ids          int32, of all its sequences one after the other
response_ids        int32, likewise
mask                uint8, one for each response id; empty where all are 1
label               whether its answer is a good one; null where nobody says
margin              by how much the better answer of a pair is better; null where nobody says
==================  ========================================================================
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.compute as pc  # type: ignore[import-untyped]

from distft.data.bad_rows import BadRow
from distft.data.encode import Encoded
from distft.data.example_json import example_from, example_text
from distft.data.formats import CompletionExample, Example, PreferenceExample, TextExample, prompt_key
from distft.data.leaks import Traced, Traces, traces

SCHEMA: Final = pa.schema(
    [
        ("where", pa.string()),
        ("example", pa.binary()),
        ("key", pa.binary(16)),
        ("asked", pa.list_(pa.uint64())),
        ("answered", pa.list_(pa.uint64())),
        ("num_own", pa.uint8()),
        ("dropped", pa.string()),
        ("bad", pa.string()),
        ("truncated", pa.bool_()),
        ("moved", pa.bool_()),
        ("prompt_lengths", pa.list_(pa.int32())),
        ("response_lengths", pa.list_(pa.int32())),
        ("prompt_ids", pa.list_(pa.int32())),
        ("response_ids", pa.list_(pa.int32())),
        ("mask", pa.list_(pa.uint8())),
        ("label", pa.bool_()),
        ("margin", pa.float64()),
    ]
)
_NOTHING = Traces((), (), 0)


@dataclass(frozen=True)
class _Identity:
    """What an example is known by: ``prompt_key``, and its traces."""

    key: bytes | None
    traces: Traces

    @classmethod
    def of(cls, example: Example | None) -> _Identity:
        return cls(None, _NOTHING) if example is None else cls(bytes.fromhex(prompt_key(example)), traces(example))


class Records:
    """Rows on their way into a record batch."""

    def __init__(self, *, keep_columns: bool) -> None:
        """``keep_columns``: keep the columns that no format knows, which only reward functions read."""
        self._keep_columns = keep_columns
        self._columns: dict[str, list[Any]] = {name: [] for name in SCHEMA.names}

    def leave_out(self, where: str, example: Example | None, why: object) -> None:
        """A row that is not trained on, because it is bad or, for a reason in words, not to be learned from;
        ``example`` None: it has none."""
        self._add(where, example, why, (), truncated=False)

    def keep(self, example: Example, sequences: Sequence[Encoded], *, truncated: bool) -> None:
        """A row with its sequences."""
        self._add(example.where, example, None, sequences, truncated=truncated)

    def keep_blocks(self, whole: Example, blocks: Sequence[tuple[Encoded, str]]) -> None:
        """A text that was cut: a row for each block, which says what the block says. All have the key and the traces of
        the whole, so that they are held out, or left out, together."""
        identity = _Identity.of(whole)
        for block, text in blocks:
            example = TextExample(text, where=whole.where, extra=whole.extra)
            self._add(whole.where, example, None, (block,), truncated=False, identity=identity)

    def batch(self) -> pa.RecordBatch:
        """All rows so far."""
        arrays = [
            _lists(self._columns[field.name], field.type)
            if pa.types.is_list(field.type)
            else pa.array(self._columns[field.name], field.type)
            for field in SCHEMA
        ]
        return pa.RecordBatch.from_arrays(arrays, schema=SCHEMA)

    def _add(self, where: str, example: Example | None, why: object, sequences: Sequence[Encoded], *,
             truncated: bool, identity: _Identity | None = None) -> None:  # fmt: skip
        identity = identity or _Identity.of(example)
        mask = [flag for sequence in sequences for flag in sequence.mask]
        values = {
            "where": where,
            "example": None if example is None else example_text(example, keep_columns=self._keep_columns),
            "key": identity.key,
            "asked": identity.traces.asked,
            "answered": identity.traces.answered,
            "num_own": identity.traces.num_own,
            "dropped": None if why is None or isinstance(why, BadRow) else str(why),
            "bad": _bad_text(why) if isinstance(why, BadRow) else None,
            "truncated": truncated,
            "moved": any(sequence.moved for sequence in sequences),
            "prompt_lengths": [len(sequence.prompt_ids) for sequence in sequences],
            "response_lengths": [len(sequence.response_ids) for sequence in sequences],
            "prompt_ids": [token for sequence in sequences for token in sequence.prompt_ids],
            "response_ids": [token for sequence in sequences for token in sequence.response_ids],
            "mask": [] if all(mask) else mask,
            "label": example.label if isinstance(example, CompletionExample) else None,
            "margin": example.margin if isinstance(example, PreferenceExample) else None,
        }
        for name, value in values.items():
            self._columns[name].append(value)


class StoredRows:
    """The rows of one source, mapped into memory: what is not asked for costs none.

    Raises ``pyarrow.ArrowInvalid`` or OSError where the file is not whole.
    """

    def __init__(self, path: Path) -> None:
        with pa.memory_map(str(path)) as file, pa.ipc.open_file(file) as reader:
            self._batches = [reader.get_batch(number) for number in range(reader.num_record_batches)]
        self._starts = np.cumsum([0, *(batch.num_rows for batch in self._batches)], dtype=np.int64)
        self._views: dict[tuple[int, str], tuple[npt.NDArray[Any], npt.NDArray[np.int64]]] = {}

    def __len__(self) -> int:
        return int(self._starts[-1])

    @cached_property
    def unit_size(self) -> int:
        """Sequences of a row: 1, or 2 for a pair. 1 where no row is kept."""
        return max((int(np.diff(self._lists(number, "prompt_lengths")[1]).max(initial=0))
                    for number in range(len(self._batches))), default=0) or 1  # fmt: skip

    @cached_property
    def largest_id(self) -> int:
        """The highest number of a token of the kept rows."""
        columns = [(number, name) for number in range(len(self._batches)) for name in ("prompt_ids", "response_ids")]
        return max((int(self._lists(number, name)[0].max(initial=0)) for number, name in columns), default=0)

    def usable(self) -> npt.NDArray[np.bool_]:
        """For each row, whether it stands for an example."""
        return self._joined([batch.column("key").is_valid() for batch in self._batches], np.bool_)

    def kept(self) -> npt.NDArray[np.bool_]:
        """For each row, whether it has sequences."""
        left_out = [
            pc.and_(batch.column("dropped").is_null(), batch.column("bad").is_null()) for batch in self._batches
        ]
        return self._joined(left_out, np.bool_)

    def keys(self) -> npt.NDArray[np.uint64]:
        """The rows' keys as two words, uint64 [rows, 2], the first the higher; 0 where a row has none."""
        found = [np.zeros((0, 2), np.uint64)]
        for batch in self._batches:
            filled = pc.fill_null(batch.column("key"), bytes(16))
            words = np.frombuffer(filled.buffers()[1], ">u8", 2 * len(filled), 16 * filled.offset)
            found.append(words.reshape(-1, 2).astype(np.uint64))
        return np.concatenate(found)

    def traced(self) -> Traced:
        """What the rows ask and answer."""
        asked, answered = (self._all_lists(name, np.uint64) for name in ("asked", "answered"))
        num_own = self._joined([batch.column("num_own") for batch in self._batches], np.uint8)
        return Traced(*asked, *answered, num_own)

    def lengths(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Tokens of the sequences of kept rows, int64 [rows, unit_size]."""
        (prompts, offsets), (responses, _) = (self._all_lists(name, np.int32) for name in _LENGTHS)
        totals: npt.NDArray[np.int64] = prompts.astype(np.int64) + responses
        places = offsets[rows][:, None] + np.arange(self.unit_size)
        found: npt.NDArray[np.int64] = totals[places]
        return found

    def count(self, flag: str, rows: npt.NDArray[np.int64]) -> int:
        """How many of the rows are ``truncated`` or ``moved``."""
        return int(self._joined([batch.column(flag) for batch in self._batches], np.bool_)[rows].sum())

    def reasons(self, rows: npt.NDArray[np.int64]) -> Counter[str]:
        """Why how many of the rows are left out."""
        found: Counter[str] = Counter()
        chosen = np.zeros(len(self), np.bool_)
        chosen[rows] = True
        for batch, start in zip(self._batches, self._starts.tolist(), strict=False):
            reasons = batch.column("dropped").filter(pa.array(chosen[start : start + batch.num_rows])).drop_null()
            found.update({item["values"]: item["counts"] for item in pc.value_counts(reasons).to_pylist()})
        return found

    def bad_rows(self, rows: npt.NDArray[np.int64]) -> list[BadRow]:
        """Those of the rows that are bad, in order."""
        bad = self._joined([batch.column("bad").is_valid() for batch in self._batches], np.bool_)
        found = []
        for row in rows[bad[rows]].tolist():
            number, place = self._find(row)
            batch = self._batches[number]
            found.append(_bad_from(batch.column("bad")[place].as_py(), batch.column("where")[place].as_py()))
        return found

    def sequences(self, row: int) -> Iterator[tuple[npt.NDArray[np.int32], npt.NDArray[np.int32],
                                                    npt.NDArray[np.uint8]]]:  # fmt: skip
        """Prompt ids, response ids and mask of each sequence of a kept row."""
        number, place = self._find(row)
        prompt, response, mask = (self._list(number, name, place) for name in ("prompt_ids", "response_ids", "mask"))
        if not len(mask):
            mask = np.ones(len(response), np.uint8)
        lengths = (self._list(number, name, place) for name in _LENGTHS)
        prompt_end = response_end = 0
        for num_prompt, num_response in zip(*lengths, strict=True):
            prompt_start, prompt_end = prompt_end, prompt_end + int(num_prompt)
            start, response_end = response_end, response_end + int(num_response)
            yield prompt[prompt_start:prompt_end], response[start:response_end], mask[start:response_end]

    def label(self, row: int) -> bool | None:
        """Whether a row's answer is a good one, if anybody says."""
        number, place = self._find(row)
        said: bool | None = self._batches[number].column("label")[place].as_py()
        return said

    def margin(self, row: int) -> float | None:
        """By how much the better answer of a row is better, if anybody says."""
        number, place = self._find(row)
        said: float | None = self._batches[number].column("margin")[place].as_py()
        return said

    def good(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        """Of rows that are labelled, whether each one's answer is good."""
        return self._joined([pc.fill_null(batch.column("label"), False) for batch in self._batches], np.bool_)[rows]

    def example(self, row: int) -> Example:
        """What a usable row says."""
        number, place = self._find(row)
        batch = self._batches[number]
        return example_from(batch.column("example")[place].as_py(), batch.column("where")[place].as_py())

    def _find(self, row: int) -> tuple[int, int]:
        number = int(np.searchsorted(self._starts, row, side="right")) - 1
        return number, row - int(self._starts[number])

    def _list(self, number: int, name: str, place: int) -> npt.NDArray[Any]:
        values, offsets = self._lists(number, name)
        return values[offsets[place] : offsets[place + 1]]

    def _lists(self, number: int, name: str) -> tuple[npt.NDArray[Any], npt.NDArray[np.int64]]:
        """Values and offsets of a column of lists in a batch, without a copy."""
        if (number, name) not in self._views:
            column = self._batches[number].column(name)
            self._views[number, name] = (column.values.to_numpy(), column.offsets.to_numpy())
        return self._views[number, name]

    def _all_lists(self, name: str, dtype: npt.DTypeLike) -> tuple[npt.NDArray[Any], npt.NDArray[np.int64]]:
        parts = [self._lists(number, name) for number in range(len(self._batches))]
        lengths = np.concatenate([np.zeros(1, np.int64), *(np.diff(offsets) for _, offsets in parts)])
        return np.concatenate([np.zeros(0, dtype), *(values for values, _ in parts)]), np.cumsum(lengths)

    def _joined(self, columns: Sequence[Any], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        return np.concatenate([np.zeros(0, dtype), *(column.to_numpy(zero_copy_only=False) for column in columns)])


def _bad_text(bad: BadRow) -> str:
    return json.dumps([bad.what, bad.hint, bad.reason, bad.digest])


def _bad_from(text: str, where: str) -> BadRow:
    what, hint, reason, digest = json.loads(text)
    bad = BadRow(what, where=where, hint=hint, reason=reason)
    bad.digest = digest
    return bad


_LENGTHS: Final = ("prompt_lengths", "response_lengths")


def _lists(rows: Sequence[Sequence[int]], kind: pa.ListType) -> pa.ListArray:
    """Much faster than ``pa.array`` of a list of lists."""
    offsets = np.cumsum([0, *map(len, rows)], dtype=np.int32)
    values = np.fromiter((value for row in rows for value in row), kind.value_type.to_pandas_dtype(), int(offsets[-1]))
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values, kind.value_type))
