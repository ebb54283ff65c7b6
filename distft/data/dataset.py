"""Tokenised rows, ready to be taken by number: what the data worker holds.

sources -> rows -> examples -> held-out split, leakage guard -> token ids -> length limits -> mix
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from distft.batches import Batch, Column, Ragged
from distft.common.errors import UserError
from distft.config.data import Data, Source
from distft.data.bad_rows import BadRow, BadRows, OnBadRow
from distft.data.encode import Encoded
from distft.data.formats import Example, prompt_key
from distft.data.sources import read_examples
from distft.data.splits import LIST_NAMES, ListName, find_leaks, held_out, mix
from distft.data.tokenise import tokenise

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Statistics:
    """What became of the rows of a list. Lengths are tokens of prompt + response."""

    num_rows: int = 0  # rows read, or split off for this list
    num_kept: int = 0
    num_units: int = 0  # kept rows, counted as often as their source's weight says
    num_truncated: int = 0
    num_moved: int = 0  # the chat template writes the prompt differently once it is answered
    num_leaked: int = 0  # left out because a list that judges asks the same
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
        if not self.bad:
            return ()
        listed = ", ".join(f"{count} {reason}" for reason, count in sorted(self.bad_by_reason.items()))
        return (f"{len(self.bad)} bad rows left out ({listed}), the first {self.bad[0].where}: {self.bad[0].what}",)

    def __str__(self) -> str:
        notes = [f"{self.num_kept} of {self.num_rows} rows kept"]
        if self.num_units != self.num_kept:
            notes.append(f"{self.num_units} visits an epoch by weight")
        if self.num_truncated:
            notes.append(f"{self.num_truncated} truncated")
        notes += [f"{count} dropped ({reason})" for reason, count in sorted(self.dropped.items())]
        notes += [f"{count} bad ({reason})" for reason, count in sorted(self.bad_by_reason.items())]
        if self.num_leaked:
            notes.append(f"{self.num_leaked} left out because held-out rows ask the same")
        if self.num_moved:
            notes.append(f"{self.num_moved} with a prompt that the chat template rewrites when it is answered")
        return ", ".join([*notes, f"longest {self.longest} tokens", f"{self.num_tokens} tokens in all"])


class TokenizedDataset:
    """The units of one list: rows (sft), pairs (reward, dpo: ``unit_size`` 2) or prompts (ppo: 0 answers)."""

    def __init__(self, encoded: Sequence[Sequence[Encoded]], examples: Sequence[Example],
                 visits: Sequence[int], statistics: Statistics) -> None:  # fmt: skip
        """``encoded``: for each row its sequences, all of the same number; ``visits``: the row of each unit."""
        self._unit_size = len(encoded[0]) if encoded else 1
        flat = [sequence for row in encoded for sequence in row]
        self._prompt_ids = Ragged.of((sequence.prompt_ids for sequence in flat), np.int32)
        self._response_ids = Ragged.of((sequence.response_ids for sequence in flat), np.int32)
        self._mask = Ragged.of((sequence.mask for sequence in flat), np.uint8)
        self._examples = list(examples)
        self._visits = np.asarray(visits, dtype=np.int64)
        self.statistics = statistics

    @property
    def num_units(self) -> int:
        """Units of one epoch."""
        return len(self._visits)

    @property
    def unit_size(self) -> int:
        """Sequences of a unit: 1, or 2 for pairs."""
        return self._unit_size

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """Tokens of each sequence, int64 [num_units * unit_size], units in order (a pair: chosen, rejected)."""
        per_sequence = self._prompt_ids.lengths + self._response_ids.lengths
        return per_sequence[self._sequences(range(self.num_units))]

    def batch(self, unit_indices: Sequence[int]) -> Batch:
        """The sequences of the units, in order; pairs as chosen, rejected.

        Columns: prompt_ids, response_ids, response_mask (only where some token is 0), sample 0..n-1 and unit
        0..u-1, numbered in the order given. ValueError for a data set of prompts.
        """
        if not len(self._response_ids.values) and self.num_units:
            raise ValueError("a data set of prompts has no responses: use prompts()")
        sequences = self._sequences(unit_indices)
        columns: dict[str, Column] = {
            "prompt_ids": self._prompt_ids.take(sequences),
            "response_ids": self._response_ids.take(sequences),
            "sample": np.arange(len(sequences), dtype=np.int64),
            "unit": np.repeat(np.arange(len(unit_indices), dtype=np.int64), self._unit_size),
        }
        mask = self._mask.take(sequences)
        if not mask.values.all():
            columns["response_mask"] = mask
        return Batch(columns)

    def prompts(self, unit_indices: Sequence[int]) -> Batch:
        """The prompts of the units, one a unit: prompt_ids, sample, unit. Empty where a row is trained on as a whole
        (texts, ``loss_on: all``): load the kind ``ppo`` to generate from such rows."""
        first = self._sequences(unit_indices)[:: self._unit_size]
        number = np.arange(len(unit_indices), dtype=np.int64)
        return Batch({"prompt_ids": self._prompt_ids.take(first), "sample": number, "unit": number})

    def rows(self, unit_indices: Sequence[int]) -> list[Example]:
        """The examples of the units: their text, and the columns that no format knows in ``extra``."""
        return [self._examples[int(self._visits[unit])] for unit in unit_indices]

    def _sequences(self, unit_indices: Sequence[int]) -> npt.NDArray[np.int64]:
        rows = self._visits[np.asarray(unit_indices, dtype=np.int64)]
        return (rows[:, None] * self._unit_size + np.arange(self._unit_size)).reshape(-1)


@dataclass(frozen=True)
class Datasets:
    """The lists of a recipe's data; None where neither sources nor ``holdout`` give one."""

    train: TokenizedDataset
    eval: TokenizedDataset | None
    test: TokenizedDataset | None


def load_datasets(data: Data, kind: str, tokenizer: PreTrainedTokenizerBase, *, loss_on: str | None = None) -> Datasets:
    """Reads, splits and tokenises all sources of a recipe for one kind of algorithm (sft, reward, dpo, ppo).

    ``loss_on`` is for sft: see ``Encoder.supervised``. Nothing here depends on a seed: which rows are held out or
    taken twice follows from their content, and their order is the sampler's affair.

    UserError: what the sources raise; bad rows as ``data.on_bad_row`` says; rows over the limit where
    ``data.overlong`` is ``error``; a list with no row left.
    """
    if not data.train:
        raise UserError("there is nothing to train on", where="data.train", hint="list at least one source")
    bad = {name: BadRows(data, name) for name in LIST_NAMES}
    read = {name: [_read(source, kind, name, bad[name]) for source in getattr(data, name)] for name in LIST_NAMES}
    dropped = {name: sum((one.dropped for one in parts), Counter()) for name, parts in read.items()}
    examples = {name: [one.examples for one in parts] for name, parts in read.items()}
    _split_off(examples, data.holdout)
    num_rows = {
        name: sum(map(len, parts)) + dropped[name].total() + len(bad[name].rows) for name, parts in examples.items()
    }
    num_leaked = _leave_out_leaks(examples)
    built: dict[str, TokenizedDataset | None] = dict.fromkeys(LIST_NAMES)
    for name in LIST_NAMES:
        if not num_rows[name] and not getattr(data, name) and not data.holdout:
            continue
        weights = [source.weight for source in data.train] if name == "train" else [1.0] * len(examples[name])
        start = Statistics(num_rows=num_rows[name], num_leaked=num_leaked[name], dropped=dict(dropped[name]))
        built[name] = _build(examples[name], weights, start, name, data, kind, tokenizer, loss_on, bad[name])
    train = built["train"]
    assert train is not None
    return Datasets(train, built["eval"], built["test"])


@dataclass(frozen=True)
class _Read:
    """The rows of one source: examples, and those that nothing can be learned from by reason."""

    examples: list[Example]
    dropped: Counter[str]


def _read(source: Source, kind: str, list_name: str, on_bad: OnBadRow) -> _Read:
    dropped: Counter[str] = Counter()
    return _Read(list(read_examples(source, kind, list_name, on_bad, dropped)), dropped)


def _split_off(examples: dict[ListName, list[list[Example]]], holdout: float) -> None:
    """Moves the held-out share of train to the lists that have no sources of their own."""
    lists = [name for name in LIST_NAMES if not examples[name]]
    if not holdout or not lists:
        return
    kept: list[list[Example]] = []
    for part in examples["train"]:
        sides: dict[ListName, list[Example]] = {name: [] for name in LIST_NAMES}
        for example in part:
            sides[held_out(prompt_key(example), holdout, lists)].append(example)
        kept.append(sides["train"])
        for name in lists:
            examples[name].append(sides[name])
    examples["train"] = kept


def _leave_out_leaks(examples: dict[ListName, list[list[Example]]]) -> dict[ListName, int]:
    """Removes from train what eval or test ask too, and from eval what test asks; says how many."""
    keys = {name: [[prompt_key(example) for example in part] for part in parts] for name, parts in examples.items()}
    leaks = find_leaks({name: [key for part in parts for key in part] for name, parts in keys.items()})
    removed: dict[ListName, int] = dict.fromkeys(LIST_NAMES, 0)
    judged: tuple[tuple[ListName, frozenset[int]], ...] = (("train", leaks.train), ("eval", leaks.eval))
    for name, places in judged:
        removed[name] = len(places)
        place = 0
        for number, part in enumerate(examples[name]):
            examples[name][number] = [example for at, example in enumerate(part, place) if at not in places]
            place += len(part)
    return removed


def _build(parts: list[list[Example]], weights: list[float], start: Statistics, name: str, data: Data, kind: str,
           tokenizer: PreTrainedTokenizerBase, loss_on: str | None, bad: BadRows) -> TokenizedDataset:  # fmt: skip
    """Tokenises a list's examples and mixes its sources."""
    kept, rows = [], []  # per source: examples; their sequences
    report = start
    for part in parts:
        outcome = tokenise(part, kind, tokenizer, data, loss_on, bad)
        kept.append([part[place] for place in outcome.places])
        rows.append(outcome.sequences)
        report = _added(report, outcome.sequences, outcome.num_truncated, outcome.dropped)
    report = replace(report, bad=tuple(bad.rows))
    if not report.num_kept:
        raise _nothing_left(report, name, data)
    visits = mix([[prompt_key(example) for example in part] for part in kept], weights)
    offsets = np.concatenate([[0], np.cumsum([len(part) for part in kept])])
    return TokenizedDataset(
        [row for part in rows for row in part],
        [example for part in kept for example in part],
        [int(offsets[source]) + row for source, row in visits],
        replace(report, num_units=len(visits)),
    )


def _added(
    report: Statistics, rows: list[tuple[Encoded, ...]], num_truncated: int, dropped: Counter[str]
) -> Statistics:
    lengths = [len(sequence) for row in rows for sequence in row]
    return replace(
        report,
        num_kept=report.num_kept + len(rows),
        num_truncated=report.num_truncated + num_truncated,
        num_moved=report.num_moved + sum(any(sequence.moved for sequence in row) for row in rows),
        num_tokens=report.num_tokens + sum(lengths),
        longest=max([report.longest, *lengths]),
        dropped=dict(Counter(report.dropped) + dropped),
    )


def _nothing_left(report: Statistics, name: str, data: Data) -> UserError:
    lost = [*sorted(report.dropped.items()), *sorted(report.bad_by_reason.items())]
    reasons = [f"{count} dropped: {reason}" for reason, count in lost]
    if report.num_leaked:
        reasons.append(f"{report.num_leaked} left out because held-out rows ask the same")
    if name != "train" and not getattr(data, name):
        hint = f"`data.holdout: {data.holdout}` of so few rows is none: raise it, or give data.{name}"
    else:
        hint = "; ".join(reasons)
    return UserError(f"no row is left of {report.num_rows}", where=f"data.{name}", hint=hint)
