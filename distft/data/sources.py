"""Where rows come from: local files and folders, the hub, the embedded corpus. No torch, no transformers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from distft.common.errors import EnvironmentFallsShort, UserError, nearest
from distft.config.data import Data, Source
from distft.config.find_method import built_in_kinds, traits_of
from distft.data.bad_rows import BadRow, BadRows, OnBadRow, Unusable, stop
from distft.data.builtin import SPLITS, dialogues
from distft.data.calculations import calculations
from distft.data.columns import column_notes
from distft.data.files import read_files
from distft.data.folders import folder_files, no_split, split_of
from distft.data.formats import (
    COLUMNS,
    KNOWN_COLUMNS,
    CompletionExample,
    PreferenceExample,
    RankingExample,
    Row,
    check_format,
    detect_format,
    misshapen,
    prompt_of,
    texts_of,
)
from distft.data.manners import manners
from distft.data.natural_instructions import instances, instructed
from distft.data.questions import questions
from distft.data.readers import example_for, example_of
from distft.data.source_names import BUILTIN, local_hint, require_hub_name
from distft.data.steps import steps
from distft.data.stories import stories
from distft.data.sums import slips, sums

_CORPORA: dict[str, Callable[[Any], Iterator[dict[str, Any]]]] = {
    "dialogues": dialogues, "manners": manners, "stories": stories, "questions": questions, "sums": sums,
    "slips": slips, "steps": steps, "calculations": calculations,
}  # fmt: skip
_FIRST_ROWS = 50
_ANSWERS = (CompletionExample, PreferenceExample, RankingExample)  # examples that answer a prompt


@dataclass(frozen=True)
class Checked:
    """What ``check_rows`` found. ``notes``: what a user should know about how the columns are read."""

    format: str
    num_rows: int
    num_unusable: int
    notes: tuple[str, ...] = ()


def read_rows(source: Source, list_name: str = "train", on_bad: OnBadRow = stop) -> Iterator[Row]:
    """The rows of a source, columns renamed, ``limit`` applied. A task of Natural Instructions is a row an instance.

    ``list_name`` (train, eval or test) is the list the source stands in: it names the split where the source
    does not. Local folders give the files of that split where file names tell splits apart, else all files.
    A hub name may carry a subset: ``owner/name:subset``. ``on_bad`` is called with rows that cannot be parsed or lack
    a column to be renamed: it raises them, or they are left out.

    UserError: missing or unreadable sources, unknown splits. EnvironmentFallsShort: the hub cannot be reached.
    """
    rows = _each(instances, _rows_of(source, list_name, on_bad), on_bad)
    if source.columns:
        rows = _each(lambda row: (_renamed(row, source.columns),), rows, on_bad)
    if (wanted := source.instructions) is not None:
        rows = _each(lambda row: (instructed(row, wanted),), rows, on_bad)
    return islice(rows, source.limit)


def format_of(source: Source, first: Row, kind: str) -> str:
    """The format of a source's rows: said in the recipe, or detected from the first row's columns."""
    if source.format == "auto":
        return detect_format(first, kind)
    check_format(source.format, kind, source.path)
    return source.format


def check_rows(
    source: Source, kind: str, max_rows: int | None = None, list_name: str = "train", on_bad: OnBadRow = stop
) -> Checked:
    """Reads up to ``max_rows`` rows and builds their examples, for a check before anything is started.

    Raises what reading a source and its rows can raise; UserError where not one row can be used, or none has a prompt
    and the recipe does not name the format.
    """
    format_name, num_rows, num_unusable, reason = "", 0, 0, ""
    prompted, notes = False, dict[str, None]()

    def unreadable(bad: BadRow) -> None:
        nonlocal reason
        on_bad(bad)
        reason = bad.what

    for row in islice(read_rows(source, list_name, unreadable), max_rows):
        num_rows += 1
        try:
            format_name = format_name or format_of(source, row, kind)
            example = example_for(row, format_name, kind)
            prompted = prompted or not isinstance(example, _ANSWERS) or bool(prompt_of(example))
            if not traits_of(kind).sampled and not is_builtin(
                source
            ):  # there the other columns are for reward functions
                notes |= dict.fromkeys(column_notes(row, format_name))
        except Unusable as unusable:
            num_unusable, reason = num_unusable + 1, str(unusable)
        except BadRow as bad:
            on_bad(bad)
            num_unusable, reason = num_unusable + 1, bad.what
    if num_rows == num_unusable:
        what = f"none of the first {num_rows} rows can be used ({reason or 'no rows'})"
        raise UserError(
            what, where=source.path, hint=f"they were read as {format_name or source.format}; is that right?"
        )
    if not prompted and source.format == "auto":
        raise _no_prompt(source, format_name, num_rows, list(notes))
    return Checked(format_name, num_rows, num_unusable, tuple(notes))


def hub_notes(data: Data, kind: str) -> list[str]:
    """What there is to know of how the columns of the hub's sources are read; others are looked at before a run.
    Raises what ``check_rows`` can raise."""
    lists = {"train": data.train, "eval": data.eval, "test": data.test}
    return [
        f"data.{name}.{number}: {note}"
        for name, sources in lists.items()
        for number, source in enumerate(sources)
        if not is_builtin(source) and not source_files(source, name)
        for note in check_rows(source, kind, _FIRST_ROWS, name, BadRows(data, name)).notes
    ]


def _no_prompt(source: Source, format_name: str, num_rows: int, notes: list[str]) -> UserError:
    hint = f"answers to nothing? then say `format: {format_name}`; else `columns: {{NAME: prompt}}` on the source"
    unread = [note for note in notes if note.startswith("not read")]
    what = f"not one of the first {num_rows} rows has a prompt" + (
        f"; {unread[0].partition(' (')[0]}" if unread else ""
    )
    return UserError(what, where=source.path, hint=hint)


def corpus_texts(source: Source, on_bad: OnBadRow = stop) -> Iterator[str]:
    """Everything a source says, for training a tokenizer: the same whatever the kind of algorithm, so that the runs
    that start from nothing on one corpus make equal tokenizers. Raises what reading a source can raise."""
    format_name: str = "" if source.format == "auto" else source.format
    for row in read_rows(source, on_bad=on_bad):
        try:
            if not format_name:
                format_name = detect_format(row, _reading_kind(row))
            yield from texts_of(example_of(row, format_name))
        except Unusable:
            continue
        except BadRow as bad:
            on_bad(bad)


def _reading_kind(row: Row) -> str:
    """What imitates, where it takes such rows; what answers prompts, or else whatever method does."""
    kinds = ("sft", *(["ppo"] if "prompt" in row.values else built_in_kinds()))
    takes = (kind for kind in kinds if any(set(COLUMNS[name]) <= set(row.values) for name in traits_of(kind).formats))
    return next(takes, "sft")


def source_files(source: Source, list_name: str) -> list[Path]:
    """The local files that a source's rows are read from, in that order; none for the embedded corpus and the hub.

    UserError where a source that must be local is not there.
    """
    if is_builtin(source):
        return []
    path = Path(source.path).expanduser()
    if path.is_dir():
        return folder_files(path, source.split, list_name)
    if path.exists():
        if source.split is not None:
            what = f"a file has no splits, but `split: {source.split}` is set"
            raise UserError(what, where=source.path, hint="remove `split`; folders and hub data sets have splits")
        return [path]
    require_hub_name(source.path, _CORPORA)
    return []


def is_builtin(source: Source) -> bool:
    """Whether the source is an embedded corpus."""
    return source.path.startswith(BUILTIN)


def _rows_of(source: Source, list_name: str, on_bad: OnBadRow) -> Iterator[Row]:
    if is_builtin(source):
        return _builtin_rows(source, list_name)
    files = source_files(source, list_name)
    return read_files(files, on_bad) if files else _hub_rows(source, list_name)


def _builtin_rows(source: Source, list_name: str) -> Iterator[Row]:
    name, split = source.path.removeprefix(BUILTIN), source.split or list_name
    if name not in _CORPORA:
        known = ", ".join(BUILTIN + known for known in _CORPORA)
        raise UserError(f"there is no embedded corpus {name!r}", where=source.path, hint=f"known: {known}")
    if split not in SPLITS:
        raise no_split(source.path, split, SPLITS)
    rows = _CORPORA[name](split)
    return (Row(values, f"{source.path}/{split}:{number}") for number, values in enumerate(rows, 1))


def hub_dataset(source: Source, list_name: str) -> tuple[Any, str]:
    """The data set of the hub (``datasets.Dataset``, rows on disk) that a source names, and its split.

    UserError: no such data set, subset or split. EnvironmentFallsShort: the hub cannot be reached.
    """
    from datasets import get_dataset_split_names, load_dataset
    from datasets.exceptions import DatasetNotFoundError

    name, _, subset = source.path.partition(":")
    try:
        split = source.split
        if split is None:
            split = split_of(list_name, get_dataset_split_names(name, subset or None), source.path)
        loaded: Any = load_dataset(name, subset or None, split=split)
    except DatasetNotFoundError as error:
        raise _not_found(source.path, error) from error
    except (ConnectionError, TimeoutError) as error:
        raise EnvironmentFallsShort(
            f"the hub cannot be reached: {_first_line(error)}", where=source.path,
            hint=local_hint(source.path) or "fetch the data set where there is a network, or give a local file",
        ) from error  # fmt: skip
    except (ValueError, OSError) as error:  # unknown split or subset, unreadable files: datasets says which
        raise UserError(
            _first_line(error), where=source.path, hint="is it a data set's name: owner/name[:subset]?"
        ) from error
    return loaded, split


def _hub_rows(source: Source, list_name: str) -> Iterator[Row]:
    loaded, split = hub_dataset(source, list_name)
    return (Row(values, f"{source.path}[{split}]:{number}") for number, values in enumerate(loaded, 1))


def _not_found(path: str, error: Exception) -> UserError:
    hint = local_hint(path) or "a private data set needs HF_TOKEN"
    return UserError(f"neither a file here nor a data set of the hub: {_first_line(error)}", where=path, hint=hint)


def _each(change: Callable[[Row], Iterable[Row | BadRow]], rows: Iterator[Row], on_bad: OnBadRow) -> Iterator[Row]:
    """What every row becomes; what is bad of it is told, and where it is bad as a whole nothing more of it comes."""
    for row in rows:
        try:
            for found in change(row):
                if isinstance(found, BadRow):
                    on_bad(found)
                else:
                    yield found
        except BadRow as bad:
            on_bad(bad)


def _renamed(row: Row, columns: Mapping[str, str]) -> Row:
    for theirs, ours in columns.items():
        if theirs in row.values:
            continue
        if ours in row.values and theirs in KNOWN_COLUMNS:
            hint = f"`columns` maps the file's name to the format's: write `columns: {{{ours}: {theirs}}}`?"
        elif ours in row.values:
            hint = f"it has `{ours}` already: leave this rename out"
        else:
            near = nearest(theirs, row.values)
            hint = f"did you mean `{near}`?" if near else f"the row has: {', '.join(map(str, row.values))}"
        raise misshapen(row, f"`columns` renames `{theirs}`, which the row does not have", hint)
    dropped = set(columns.values()) - set(columns)  # a renamed column replaces one that has that name already
    kept = {name: value for name, value in row.values.items() if name not in columns and name not in dropped}
    return Row({**kept, **{ours: row.values[theirs] for theirs, ours in columns.items()}}, row.where)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
