"""A list of tokenised rows, ready to be taken by number: what the data worker holds. The rows stay on the disk."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from distft.batches import Batch, Column, Ragged
from distft.data.bad_rows import BadRow
from distft.data.epochs import Epochs
from distft.data.formats import Example
from distft.data.overlaps import Alike
from distft.data.stored_rows import StoredRows

Rows: TypeAlias = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Statistics:
    """What became of the rows of a list. Lengths are tokens of prompt + response."""

    num_rows: int = 0  # rows read, or split off for this list
    num_kept: int = 0
    num_units: int = 0  # visits of an epoch, by the sources' weights and shares
    num_truncated: int = 0
    num_moved: int = 0  # the chat template writes the prompt differently once it is answered
    num_leaked: int = 0  # a list that judges asks the same
    leaks_stay: bool = False  # else they are left out
    alike: Alike | None = None  # nearly the same as rows that judge; they stay
    num_tokens: int = 0
    longest: int = 0
    dropped: dict[str, int] = field(default_factory=dict)  # reason -> rows that nothing can be learned from
    bad: tuple[BadRow, ...] = ()  # rows that are wrong, left out because `data.on_bad_row` says so

    @property
    def bad_by_reason(self) -> dict[str, int]:
        """Reason -> bad rows."""
        return dict(Counter(row.reason for row in self.bad))

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a user should hear of before the run goes on."""
        found = []
        if self.dropped:
            found.append(f"{sum(self.dropped.values()):,} of {self.num_rows:,} rows left out: {_counted(self.dropped)}")
        if self.bad:
            first = f"the first {self.bad[0].where}: {self.bad[0].what}"
            found.append(f"{len(self.bad):,} bad rows left out ({_counted(self.bad_by_reason)}), {first}")
        return tuple(found)

    def __str__(self) -> str:
        notes = [f"{self.num_kept:,} of {self.num_rows:,} rows kept"]
        if self.num_units != self.num_kept:
            notes.append(f"{self.num_units:,} visits an epoch by weight or share")
        if self.num_truncated:
            notes.append(f"{self.num_truncated:,} truncated")
        notes += [f"{count:,} dropped ({reason})" for reason, count in sorted(self.dropped.items())]
        notes += [f"{count:,} bad ({reason})" for reason, count in sorted(self.bad_by_reason.items())]
        if self.num_leaked:
            what = "ask what held-out rows ask" if self.leaks_stay else "left out because held-out rows ask the same"
            notes.append(f"{self.num_leaked:,} {what}")
        if self.alike:
            notes.append(f"{self.alike.count:,} nearly the same as held-out rows")
        if self.num_moved:
            notes.append(f"{self.num_moved:,} with a prompt that the chat template rewrites when it is answered")
        return ", ".join([*notes, f"longest {self.longest:,} tokens", f"{self.num_tokens:,} tokens in all"])


def _counted(reasons: dict[str, int]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in sorted(reasons.items()))


class TokenizedDataset:
    """The units of one list: sequences, pairs (``unit_size`` 2), rankings (of up to ``unit_size`` answers) or prompts
    (no answers)."""

    def __init__(self, sources: Sequence[StoredRows], source_of: npt.NDArray[np.int32], row_of: npt.NDArray[np.int64],
                 statistics: Statistics, epochs: Epochs) -> None:  # fmt: skip
        """``source_of`` and ``row_of``: for each unit the number of its source and of the row there. ``epochs``: how
        often and when a unit is visited."""
        self._sources = list(sources)
        self._source_of, self._row_of = source_of, row_of
        self.statistics, self.epochs = statistics, epochs

    @property
    def num_units(self) -> int:
        """Units that there are; an epoch visits ``epochs.num_units``."""
        return len(self._row_of)

    @property
    def unit_size(self) -> int:
        """Sequences of a unit at most: 1, 2 of pairs, more of rankings."""
        return int(self.sizes.max(initial=0)) or 1

    @cached_property
    def sizes(self) -> npt.NDArray[np.int64]:
        """Sequences of each unit, int64 [num_units]."""
        return self._of_rows(StoredRows.sizes)

    def place(self, unit: int) -> str:
        """Where the unit's row was read: its file and line, or the corpus and its number there."""
        source = self._sources[int(self._source_of[unit])]
        return source.place(int(self._row_of[unit]))

    @property
    def source_sizes(self) -> tuple[int, ...]:
        """Units of each source; the units are ordered by source."""
        return self.epochs.sizes

    def sources(self, unit_indices: Sequence[int]) -> npt.NDArray[np.int64]:
        """The number of the source of each sequence of the units."""
        units = list(unit_indices)
        return np.repeat(self._source_of[units].astype(np.int64), self.sizes[units])

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """Tokens of each sequence, int64, units in order (a pair: chosen, rejected; a ranking: the best first)."""
        return self._of_rows(StoredRows.lengths)

    @property
    def num_good(self) -> int:
        """Of units that are labelled answers, those that are called good."""
        parts = [source.good(self._row_of[self._source_of == number]) for number, source in enumerate(self._sources)]
        return sum(int(part.sum()) for part in parts)

    @property
    def largest_id(self) -> int:
        """No token of the units has a higher number."""
        return max((source.largest_id for source in self._sources), default=0)

    def batch(self, unit_indices: Sequence[int]) -> Batch:
        """The sequences of the units, in order; pairs as chosen, rejected, rankings the best first.

        Columns: prompt_ids, response_ids, response_mask (only where some token is 0), label (only where all rows have
        one), rank (of pairs and rankings), margin (only where some pair has one; 0 of the others), step (of answers in
        steps), sample 0..n-1 and unit 0..u-1, numbered in the order given. ValueError for a data set of prompts.
        """
        rows = [list(self._source(unit).sequences(self._row(unit))) for unit in unit_indices]
        sequences, sizes = [sequence for row in rows for sequence in row], list(map(len, rows))
        prompts, responses, masks = ([sequence[part] for sequence in sequences] for part in range(3))
        if sequences and not any(map(len, responses)):
            raise ValueError("a data set of prompts has no responses: use prompts()")
        columns: dict[str, Column] = {
            "prompt_ids": Ragged.of(prompts, np.int32),
            "response_ids": Ragged.of(responses, np.int32),
            "sample": np.arange(len(sequences), dtype=np.int64),
            "unit": np.repeat(np.arange(len(unit_indices), dtype=np.int64), sizes),
        }
        mask = Ragged.of(masks, np.uint8)
        if not mask.values.all():
            columns["response_mask"] = mask
        labels = [self._source(unit).label(self._row(unit)) for unit in unit_indices]
        if None not in labels:
            columns["label"] = np.array(labels, np.uint8)
        margins = [self._source(unit).margin(self._row(unit)) for unit in unit_indices]
        if any(margins):
            columns["margin"] = np.repeat(np.array([margin or 0.0 for margin in margins], np.float32), sizes)
        ranks = [self._source(unit).ranks(self._row(unit)) for unit in unit_indices]
        if sum(map(len, ranks)) == len(sequences) > 0:
            columns["rank"] = np.concatenate(ranks)
        steps = [self._source(unit).steps(self._row(unit)) for unit in unit_indices]
        if any(map(len, steps)):
            judged = np.zeros(len(mask.values), np.uint8)
            judged[mask.values > 0] = np.concatenate(steps)
            columns["step"] = Ragged(judged, mask.offsets)
        return Batch(columns)

    def prompts(self, unit_indices: Sequence[int]) -> Batch:
        """The prompts of the units, one a unit: prompt_ids, sample, unit. Empty where a row is trained on as a whole
        (texts, ``loss_on: all``): load a kind that samples to generate from such rows."""
        prompts = [next(self._source(unit).sequences(self._row(unit)))[0] for unit in unit_indices]
        number = np.arange(len(unit_indices), dtype=np.int64)
        return Batch({"prompt_ids": Ragged.of(prompts, np.int32), "sample": number, "unit": number})

    def class_names(self, unit_indices: Sequence[int]) -> list[str | None]:
        """The name of the class of each unit's text; None where it has none."""
        return [self._source(unit).class_name(self._row(unit)) for unit in unit_indices]

    def rows(self, unit_indices: Sequence[int]) -> list[Example]:
        """The examples of the units: their text, and in RL the columns that no format knows in ``extra``."""
        return [self._source(unit).example(self._row(unit)) for unit in unit_indices]

    def _of_rows(self, what: Callable[[StoredRows, Rows], Rows]) -> Rows:
        parts = [what(source, self._row_of[self._source_of == number]) for number, source in enumerate(self._sources)]
        return np.concatenate([np.zeros(0, np.int64), *parts])

    def _source(self, unit: int) -> StoredRows:
        return self._sources[int(self._source_of[unit])]

    def _row(self, unit: int) -> int:
        return int(self._row_of[unit])
