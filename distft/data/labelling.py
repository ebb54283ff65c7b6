"""What labellers are asked, and what they answered: items, and the files that a labelling page saves."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeAlias

from distft.common.errors import UserError
from distft.config.data import Source
from distft.data.bad_rows import BadRow
from distft.data.formats import Content, Row, misshapen
from distft.data.messages import parse_messages
from distft.data.sources import read_rows

Task: TypeAlias = Literal["rank", "rate", "correct"]
FORMAT: Final = 1
RATINGS: Final = (1, 5)  # the worst and the best
MOST_COMPLETIONS: Final = 8  # each has a key, a to h
_AGAIN: Final = "save the file again from the labelling page"


@dataclass(frozen=True)
class Item:
    """A prompt and the answers to be judged. ``ended``: which of them were not cut off at the limit."""

    prompt: Content
    completions: tuple[str, ...]
    ended: tuple[bool, ...] = ()

    @property
    def written_prompt(self) -> str | list[dict[str, str]]:
        """As JSON has it."""
        if isinstance(self.prompt, str):
            return self.prompt
        return [{"role": turn.role, "content": turn.content} for turn in self.prompt]


@dataclass(frozen=True)
class Labels:
    """What one person said of one item; None: was not asked. ``ranks``: 1 is the best, equal ones are as good as each
    other. ``ratings``: of ``RATINGS``. ``corrections``: None where an answer was left as it is."""

    labeller: str
    number: int
    item: Item
    ranks: tuple[int, ...] | None
    ratings: tuple[int, ...] | None
    corrections: tuple[str | None, ...] | None
    where: str = field(compare=False)


def collection_name(items: Sequence[Item], criterion: str, tasks: Sequence[Task]) -> str:
    """The same of the same items, asked the same: what belongs together is known by it."""
    said = [criterion, list(tasks), [[item.written_prompt, list(item.completions)] for item in items]]
    return hashlib.blake2b(json.dumps(said).encode(), digest_size=8).hexdigest()


def label_line(labels: Labels, collection: str, criterion: str) -> dict[str, Any]:
    """A line of the file that a labelling page saves."""
    item = labels.item
    return {
        "format": FORMAT, "collection": collection, "labeller": labels.labeller, "item": labels.number,
        "criterion": criterion, "prompt": item.written_prompt, "completions": item.completions, "ranks": labels.ranks,
        "ratings": labels.ratings, "corrections": labels.corrections,
    }  # fmt: skip


def read_labels(paths: Sequence[str]) -> list[Labels]:
    """The labels of several files, of one collection, each labeller's once, by item and labeller.

    Raises what reading a file can raise; BadRow for a line that no labelling page wrote; UserError for files of
    different collections, for two opinions of one labeller on one item, or without a label.
    """
    found: dict[tuple[int, str], Labels] = {}
    items: dict[int, Labels] = {}
    collection, first = "", ""
    for row in _rows(paths):
        labels, named = _labels(row), str(row.values.get("collection"))
        collection, first = collection or named, first or row.where
        if named != collection:
            what = f"is of another collection than {first}: {named} and {collection}"
            raise UserError(what, where=row.where, hint="read the files of each labelling page apart")
        known = found.setdefault((labels.number, labels.labeller), labels)
        if known != labels:
            what = f"{labels.labeller} says something else of this item in {known.where}"
            raise UserError(what, where=row.where, hint="leave the older file out; two people need two names")
        asked = items.setdefault(labels.number, labels)
        if asked.item != labels.item:
            raise misshapen(row, f"item {labels.number} has other texts than in {asked.where}", _AGAIN)
    if not found:
        raise UserError("there is no label in it", where=", ".join(paths), hint="press Save on the labelling page")
    return [found[key] for key in sorted(found)]


def _rows(paths: Sequence[str]) -> Iterator[Row]:
    for path in paths:
        yield from read_rows(Source(path=path))


def _labels(row: Row) -> Labels:
    values = row.values
    if values.get("format") != FORMAT:
        what = "no labelling page wrote this line" if "collection" not in values else "is of another version"
        raise misshapen(row, f"{what} (`format` is {values.get('format')!r}, not {FORMAT})", _AGAIN)
    labeller, number = values.get("labeller"), values.get("item")
    if not isinstance(labeller, str) or not labeller.strip():
        raise misshapen(row, "`labeller` is not a name", _AGAIN)
    if not isinstance(number, int) or isinstance(number, bool) or number < 0:
        raise misshapen(row, "`item` is not the number of an item", _AGAIN)
    item = _item(row)
    return Labels(
        labeller.strip(), number, item,
        _numbers(row, "ranks", len(item.completions), 1, len(item.completions)),
        _numbers(row, "ratings", len(item.completions), *RATINGS),
        _corrections(row, len(item.completions)), row.where,
    )  # fmt: skip


def _item(row: Row) -> Item:
    prompt, completions = row.values.get("prompt"), row.values.get("completions")
    if not isinstance(prompt, str | list) or not prompt:
        raise misshapen(row, "`prompt` is neither a text nor messages", _AGAIN)
    if not isinstance(completions, list) or not completions or not all(isinstance(one, str) for one in completions):
        raise misshapen(row, "`completions` is not a list of texts", _AGAIN)
    return Item(prompt if isinstance(prompt, str) else parse_messages(row, "prompt", prompt), tuple(completions))


def _numbers(row: Row, column: str, count: int, least: int, most: int) -> tuple[int, ...] | None:
    said = row.values.get(column)
    if said is None:
        return None
    whole = isinstance(said, list) and all(isinstance(one, int) and not isinstance(one, bool) for one in said)
    if not isinstance(said, list) or not whole or len(said) != count or not all(least <= one <= most for one in said):
        raise _wrong(row, column, f"{count} whole numbers from {least} to {most}")
    return tuple(said)


def _corrections(row: Row, count: int) -> tuple[str | None, ...] | None:
    said: Any = row.values.get("corrections")
    if said is None:
        return None
    if not isinstance(said, list) or len(said) != count or not all(one is None or isinstance(one, str) for one in said):
        raise _wrong(row, "corrections", f"{count} texts or nulls")
    return tuple(said)


def _wrong(row: Row, column: str, wanted: str) -> BadRow:
    return misshapen(row, f"`{column}` is {row.values[column]!r}, not {wanted}", _AGAIN)
