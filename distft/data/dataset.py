"""From a recipe's sources to the lists that a run takes its rows from.

sources -> content -> tokenised rows in the store -> held-out split, leakage guard -> mix
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, TypeVar, cast

import numpy as np
import numpy.typing as npt

from distft.common.errors import UserError
from distft.config.data import Data, Source
from distft.data.bad_rows import BadRows
from distft.data.chunks import Task
from distft.data.epochs import Epochs
from distft.data.fingerprint import Content, content_of, tokens_key
from distft.data.formats import Example
from distft.data.leak_guard import leaked
from distft.data.overlaps import near_duplicates
from distft.data.sources import format_of, is_builtin, read_rows
from distft.data.splits import LIST_NAMES, WITHOUT, ListName, held_out, mix, none_held_out
from distft.data.store import Reading, store_rows
from distft.data.stored_rows import StoredRows
from distft.data.tokenized import Statistics, TokenizedDataset

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_Result = TypeVar("_Result")
_Said = TypeVar("_Said")
_Told = TypeVar("_Told")
Rows: TypeAlias = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Datasets:
    """The lists of a recipe's data; None where neither sources nor ``holdout`` give one."""

    train: TokenizedDataset
    eval: TokenizedDataset | None
    test: TokenizedDataset | None


@dataclass(frozen=True)
class Preparing:
    """How far ``prepare_datasets`` is. ``contents``: the hash of each source by its key; None until all are known."""

    doing: str
    contents: Mapping[str, str] | None = None


@dataclass(frozen=True)
class _Part:
    """Rows of one source in a list."""

    source: StoredRows
    rows: Rows


def load_datasets(data: Data, kind: str, tokenizer: PreTrainedTokenizerBase, *, loss_on: str | None = None) -> Datasets:
    """``prepare_datasets`` in one go, with a store that is gone when this returns."""
    with tempfile.TemporaryDirectory(prefix="distft-rows-") as folder:
        return _finished(prepare_datasets(data, kind, tokenizer, Path(folder), loss_on=loss_on))


def load_list(
    sources: Sequence[Source], data: Data, kind: str, tokenizer: PreTrainedTokenizerBase, *,
    loss_on: str | None = None, name: ListName = "test",
) -> TokenizedDataset:  # fmt: skip
    """The rows of some sources, tokenised for a kind of algorithm as those of the list ``name`` would be: nothing is
    split off, and nothing left out because another list has it. Raises as ``prepare_datasets``.
    """
    on_bad = BadRows(data, name)
    with tempfile.TemporaryDirectory(prefix="distft-rows-") as folder:
        parts = []
        for number, source in enumerate(sources):
            content = _finished(content_of(source, name, Path(folder)))
            reading = _reading(source, name, kind, content)
            task = Task(kind, loss_on, data, name, tokenizer)
            found = _finished(store_rows(Path(folder) / str(number), reading, task))
            parts.append(_Part(found, np.arange(len(found), dtype=np.int64)))
            for bad in found.bad_rows(parts[-1].rows):
                on_bad(bad)
        start = Statistics(num_rows=sum(len(part.rows) for part in parts))
        return _build(parts, [1.0] * len(parts), [None] * len(parts), start, name, data)


def prepare_datasets(
    data: Data, kind: str, tokenizer: PreTrainedTokenizerBase, folder: Path, *, loss_on: str | None = None
) -> Generator[Preparing, None, Datasets]:
    """Reads, tokenises and splits all sources of a recipe for one kind of algorithm, with
    the tokenised rows in the store ``folder``: rows that are there already cost nothing. Gives way every few seconds.

    ``loss_on`` is for sft: see ``Encoder.supervised``. Nothing here depends on a seed: which rows are held out or
    taken twice follows from their content, and their order is the sampler's affair.

    UserError: what the sources raise; bad rows as ``data.on_bad_row`` says; rows over the limit where
    ``data.overlong`` is ``error``; a list with no row left.
    """
    if not data.train:
        raise UserError("there is nothing to train on", where="data.train", hint="list at least one source")
    sources = [(name, number, one) for name in LIST_NAMES for number, one in enumerate(getattr(data, name))]
    contents = {}
    for name, number, source in sources:
        looking = content_of(source, name, folder)
        contents[name, number] = yield from saying(looking, Preparing)
    yield Preparing("", {
        f"data.{name}.{number}": content.digest for (name, number), content in contents.items()
    })  # fmt: skip
    lists: dict[ListName, list[_Part]] = {name: [] for name in LIST_NAMES}
    on_bad = {name: BadRows(data, name) for name in LIST_NAMES}
    for name, number, source in sources:
        content = contents[name, number]
        key = tokens_key(source, content, kind, loss_on, data, tokenizer)
        reading = _reading(source, name, kind, content)
        found = yield from saying(
            store_rows(folder / key, reading, Task(kind, loss_on, data, name, tokenizer)), Preparing
        )
        part = _Part(found, np.arange(len(found), dtype=np.int64))
        for bad in found.bad_rows(part.rows):
            on_bad[name](bad)
        lists[name].append(part)
    yield Preparing("splitting rows")
    return _datasets(lists, data)


def _reading(source: Source, list_name: ListName, kind: str, content: Content) -> Reading:
    num_rows = content.num_rows
    if source.limit is not None:
        num_rows = source.limit if num_rows is None else min(source.limit, num_rows)
    return Reading(
        name=source.path,
        rows=lambda on_bad: read_rows(source, list_name, on_bad),
        format_of=lambda row: format_of(source, row, kind),
        check=content.require_unchanged,
        num_rows=num_rows,
    )


def _finished(work: Generator[object, None, _Result]) -> _Result:
    while True:
        try:
            next(work)
        except StopIteration as done:
            result: _Result = done.value
            return result


def saying(work: Generator[_Said, None, _Result], change: Callable[[_Said], _Told]) -> Generator[_Told, None, _Result]:
    """The same work, which says what ``change`` makes of what it says."""
    while True:
        try:
            said = next(work)
        except StopIteration as done:
            result: _Result = done.value
            return result
        yield change(said)


def _datasets(lists: dict[ListName, list[_Part]], data: Data) -> Datasets:
    _split_off(lists, data.holdout)
    num_rows = {name: sum(len(part.rows) for part in parts) for name, parts in lists.items()}
    num_leaked = _look_for_leaks(lists, data)
    alike = {
        name: near_duplicates([(part.source, part.rows) for part in lists[name]], judged)
        for name, judged in _judging(lists)
        if not all(map(is_builtin, data.train))  # made of a few templates, and split by what they speak of
    }
    built: dict[str, TokenizedDataset | None] = dict.fromkeys(LIST_NAMES)
    for name in LIST_NAMES:
        if not num_rows[name] and not getattr(data, name) and not data.holdout:
            continue
        weights = [source.weight for source in data.train] if name == "train" else [1.0] * len(lists[name])
        shares = [source.share for source in data.train] if name == "train" else [None] * len(lists[name])
        start = Statistics(
            num_rows=num_rows[name], num_leaked=num_leaked[name], leaks_stay=data.on_leak == "warn",
            alike=alike.get(name),
        )  # fmt: skip
        built[name] = _build(lists[name], weights, shares, start, name, data)
    train = built["train"]
    assert train is not None
    return Datasets(train, built["eval"], built["test"])


def _split_off(lists: dict[ListName, list[_Part]], holdout: float) -> None:
    """Moves the held-out share of train to the lists that have no sources of their own."""
    missing = [name for name in LIST_NAMES if not lists[name]]
    if not holdout or not missing:
        return
    kept: list[_Part] = []
    for part in lists["train"]:
        side = np.where(part.source.usable(), held_out(part.source.keys(), holdout, missing), LIST_NAMES.index("train"))
        kept.append(_Part(part.source, np.flatnonzero(side == LIST_NAMES.index("train"))))
        for name in missing:
            lists[name].append(_Part(part.source, np.flatnonzero(side == LIST_NAMES.index(name))))
    lists["train"] = kept


def _look_for_leaks(lists: dict[ListName, list[_Part]], data: Data) -> dict[ListName, int]:
    """How many rows of train eval or test ask too, and of eval test asks; they are removed unless ``data.on_leak`` says
    otherwise. Raises UserError naming the first where that is to stop a run."""
    removed: dict[ListName, int] = dict.fromkeys(LIST_NAMES, 0)
    for name, judged in _judging(lists):
        for place, part in enumerate(lists[name]):
            leaks = leaked(part.source, part.rows, judged) if judged else np.zeros(len(part.rows), np.bool_)
            removed[name] += int(leaks.sum())
            if data.on_leak == "fail" and leaks.any():
                raise _leak(name, part.source.example(int(part.rows[leaks][0])))
            if data.on_leak == "drop":
                lists[name][place] = _Part(part.source, part.rows[~leaks])
    return removed


def _judging(lists: dict[ListName, list[_Part]]) -> Iterator[tuple[ListName, list[tuple[StoredRows, Rows]]]]:
    """A list, and the usable rows that judge what is learned from it."""
    usable = {
        name: [(part.source, part.rows[part.source.usable()[part.rows]]) for part in parts]
        for name, parts in lists.items()
    }
    for name, judges in (("train", usable["eval"] + usable["test"]), ("eval", usable["test"])):
        yield cast("ListName", name), [(source, rows) for source, rows in judges if len(rows)]


def _leak(name: ListName, row: Example) -> UserError:
    what = f"this row of data.{name} asks what a held-out row asks, or holds one with its answer"
    hint = "take it out, or data.on_leak=drop leaves such rows out and says how many"
    return UserError(what, where=row.where, hint=hint)


def _build(
    parts: list[_Part],
    weights: list[float],
    shares: Sequence[float | None],
    start: Statistics,
    name: ListName,
    data: Data,
) -> TokenizedDataset:  # fmt: skip
    """Counts what a list has become of and mixes its sources."""
    kept = [part.rows[part.source.kept()[part.rows]] for part in parts]
    report = start
    for part, rows in zip(parts, kept, strict=True):
        report = _added(report, part, rows)
    if not report.num_kept:
        raise _nothing_left(report, name, data)
    source_of, place_of = mix([part.source.keys()[rows] for part, rows in zip(parts, kept, strict=True)], weights)
    row_of = np.zeros(len(place_of), np.int64)
    for number, rows in enumerate(kept):
        row_of[source_of == number] = rows[place_of[source_of == number]]
    sizes = tuple(np.bincount(source_of, minlength=len(parts)).tolist())
    epochs = Epochs(sizes, tuple(shares))
    if not sum(size for size, share in zip(sizes, shares, strict=True) if share is None):
        raise _nothing_left(report, name, data)
    report = replace(report, num_units=epochs.num_units)
    return TokenizedDataset([part.source for part in parts], source_of, row_of, report, epochs)


def _added(report: Statistics, part: _Part, kept: Rows) -> Statistics:
    lengths = part.source.lengths(kept)
    return replace(
        report,
        num_kept=report.num_kept + len(kept),
        num_truncated=report.num_truncated + part.source.count("truncated", kept),
        num_moved=report.num_moved + part.source.count("moved", kept),
        num_tokens=report.num_tokens + int(lengths.sum()),
        longest=max(report.longest, int(lengths.max(initial=0))),
        dropped=dict(Counter(report.dropped) + part.source.reasons(part.rows)),
        bad=(*report.bad, *part.source.bad_rows(part.rows)),
    )


def _nothing_left(report: Statistics, name: ListName, data: Data) -> UserError:
    lost = [*sorted(report.dropped.items()), *sorted(report.bad_by_reason.items())]
    reasons = [f"{count} dropped: {reason}" for reason, count in lost]
    if report.num_leaked:
        reasons.append(f"{report.num_leaked} left out because held-out rows ask the same")
    if name != "train" and not getattr(data, name):
        return none_held_out(name, data.holdout)
    if not reasons and data.holdout:
        hint = f"`data.holdout: {data.holdout}` leaves none of so few rows: lower it; {WITHOUT}"
    else:
        hint = "; ".join(reasons)
    return UserError(f"no row is left of {report.num_rows}", where=f"data.{name}", hint=hint)
