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
prompt_lengths      int32, tokens of each of its sequences: 1, 2 of a pair (chosen, rejected),
response_lengths    all answers of a ranking; none where the row is left out
prompt_ids          int32, of all its sequences one after the other
response_ids        int32, likewise
mask                uint8, one for each response id; empty where all are 1
label               whether its answer is a good one; null where nobody says
margin              by how much the better answer of a pair is better; null where nobody says
ranks               uint8, one for each sequence of a pair or ranking, 0 the best; else none
class               the name of the class of its text; null where it has none
steps               uint8, one for each step whose place the mask has: 1 where it is right
==================  ========================================================================
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]

from distft.data.bad_rows import BadRow
from distft.data.encode import Encoded
from distft.data.example_json import example_text
from distft.data.formats import (
    ClassifiedExample,
    CompletionExample,
    Example,
    PreferenceExample,
    RankingExample,
    StepwiseExample,
    TextExample,
    prompt_key,
)
from distft.data.leaks import Traces, traces

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
        ("ranks", pa.list_(pa.uint8())),
        ("class", pa.string()),
        ("steps", pa.list_(pa.uint8())),
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
            "ranks": _ranks(example) if len(sequences) > 1 else (),
            "class": example.label if isinstance(example, ClassifiedExample) else None,
            "steps": example.labels[: sum(mask)] if isinstance(example, StepwiseExample) else (),
        }
        for name, value in values.items():
            self._columns[name].append(value)


def _ranks(example: Example | None) -> Sequence[int]:
    """Of several answers to one prompt, in their order."""
    if isinstance(example, RankingExample):
        return example.ranks
    return (0, 1) if isinstance(example, PreferenceExample) else ()


def _bad_text(bad: BadRow) -> str:
    return json.dumps([bad.what, bad.hint, bad.reason, bad.digest])


def _lists(rows: Sequence[Sequence[int]], kind: pa.ListType) -> pa.ListArray:
    """Much faster than ``pa.array`` of a list of lists."""
    offsets = np.cumsum([0, *map(len, rows)], dtype=np.int32)
    values = np.fromiter((value for row in rows for value in row), kind.value_type.to_pandas_dtype(), int(offsets[-1]))
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values, kind.value_type))
