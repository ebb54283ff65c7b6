"""Tokenised rows as they lie on the disk (see ``records``), mapped into memory."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.compute as pc  # type: ignore[import-untyped]

from distft.data.bad_rows import BadRow
from distft.data.example_json import example_from
from distft.data.formats import Example
from distft.data.leaks import Traced


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

    def sizes(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """How many sequences each of the rows has, int64: 1, 2 of a pair, more of a ranking, 0 of one left out."""
        parts = [np.diff(self._lists(number, "prompt_lengths")[1]) for number in range(len(self._batches))]
        found: npt.NDArray[np.int64] = np.concatenate([np.zeros(0, np.int64), *parts])[rows]
        return found

    def lengths(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Tokens of the sequences of kept rows, one row's after the other's, int64."""
        (prompts, offsets), (responses, _) = (self._all_lists(name, np.int32) for name in _LENGTHS)
        totals: npt.NDArray[np.int64] = prompts.astype(np.int64) + responses
        sizes = self.sizes(rows)
        behind = np.cumsum(sizes)
        found: npt.NDArray[np.int64] = totals[np.arange(sizes.sum()) + np.repeat(offsets[rows] - behind + sizes, sizes)]
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

    def parts(self, name: str) -> Iterator[tuple[npt.NDArray[Any], npt.NDArray[np.int64], int]]:
        """A column of lists, part by part as it lies on the disk: the values, where each row's begin and the last one's
        end, and the number of the first row."""
        for number, start in enumerate(self._starts[:-1].tolist()):
            values, offsets = self._lists(number, name)
            yield values[offsets[0] : offsets[-1]], offsets.astype(np.int64) - int(offsets[0]), start

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

    def ranks(self, row: int) -> npt.NDArray[np.uint8]:
        """Of the answers of a pair or ranking which is better: 0 the best. None of a row that compares nothing."""
        number, place = self._find(row)
        return self._list(number, "ranks", place)

    def steps(self, row: int) -> npt.NDArray[np.uint8]:
        """Of the steps of a row's answer which are right: 1; none of a row that is not divided into steps."""
        number, place = self._find(row)
        return self._list(number, "steps", place)

    def class_name(self, row: int) -> str | None:
        """The name of the class of a row's text, if it has one."""
        number, place = self._find(row)
        said: str | None = self._batches[number].column("class")[place].as_py()
        return said

    def good(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        """Of rows that are labelled, whether each one's answer is good."""
        return self._joined([pc.fill_null(batch.column("label"), False) for batch in self._batches], np.bool_)[rows]

    def place(self, row: int) -> str:
        """Where a row was read: its file and line, or the corpus and its number there."""
        number, place = self._find(row)
        said: str = self._batches[number].column("where")[place].as_py()
        return said

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


def _bad_from(text: str, where: str) -> BadRow:
    what, hint, reason, digest = json.loads(text)
    bad = BadRow(what, where=where, hint=hint, reason=reason)
    bad.digest = digest
    return bad


_LENGTHS: Final = ("prompt_lengths", "response_lengths")
