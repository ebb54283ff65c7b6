"""Rows of a source to record batches, some thousands at a time."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import pyarrow as pa  # type: ignore[import-untyped]

from distft.config.data import Data
from distft.config.find_method import traits_of
from distft.data.bad_rows import BadRow, BadRows, OnBadRow, Unusable
from distft.data.encode import Encoded
from distft.data.formats import Example, Row
from distft.data.readers import examples_for
from distft.data.records import Records
from distft.data.tokenise import tokenise

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Item: TypeAlias = Row | BadRow
# A chunk ends at either: small rows are many to a chunk, large ones do not fill the memory.
MAX_ROWS: Final = 8192
_MAX_CHARACTERS: Final = 8 * 2**20


@dataclass(frozen=True)
class Task:
    """What the rows of a list are to become."""

    kind: str
    loss_on: str | None
    data: Data
    list_name: str
    tokenizer: PreTrainedTokenizerBase

    def batch(self, items: Sequence[Item], format_name: str) -> pa.RecordBatch:
        """Rows as records, each with its tokens or why it has none. UserError for a row that is wrong, or for more
        of them than ``data.max_dropped``."""
        on_bad = BadRows(self.data, self.list_name)
        read: list[tuple[str, Example | Unusable | BadRow]] = []  # where each stands, and what became of it
        for item in items:
            try:
                read += [(item.where, example) for example in self._examples(item, format_name)]
            except Unusable as why:
                read.append((item.where, why))
            except BadRow as bad:
                on_bad(bad)
                read.append((item.where, bad))
        examples = [one for _, one in read if not isinstance(one, Unusable | BadRow)]
        found = tokenise(examples, self.kind, self.tokenizer, self.data, self.loss_on, on_bad)
        kept: dict[int, list[tuple[tuple[Encoded, ...], bool]]] = defaultdict(list)
        for place, sequences, truncated in zip(found.places, found.sequences, found.truncated, strict=True):
            kept[place].append((sequences, truncated))
        records, number = Records(keep_columns=traits_of(self.kind).sampled), -1
        for where, one in read:
            if isinstance(one, Unusable | BadRow):
                records.leave_out(where, None, one)
                continue
            number += 1
            if len(kept[number]) > 1:
                records.keep_blocks(one, [(block, self._text(block)) for ((block,), _) in kept[number]])
            elif kept[number]:
                [(sequences, truncated)] = kept[number]
                records.keep(one, sequences, truncated=truncated)
            else:
                records.leave_out(where, one, found.bad.get(number) or found.reasons[number])
        return records.batch()

    def _text(self, block: Encoded) -> str:
        """What a block says, without what it repeats of the one before."""
        return str(self.tokenizer.decode(block.response_ids, skip_special_tokens=True))

    def _examples(self, item: Item, format_name: str) -> tuple[Example, ...]:
        if isinstance(item, BadRow):
            raise item
        return examples_for(item, format_name, self.kind)


def chunked(read: Callable[[OnBadRow], Iterator[Row]]) -> Iterator[list[Item]]:
    """The rows of a source, and those that could not be read, in chunks whose borders depend on them alone.

    ``read`` is given what it is to call with a bad row.
    """
    chunk: list[Item] = []
    characters = 0
    for row in read(chunk.append):
        chunk.append(row)
        characters += _characters(row.values)
        if len(chunk) >= MAX_ROWS or characters >= _MAX_CHARACTERS:
            yield list(chunk)
            chunk.clear()
            characters = 0
    if chunk:
        yield chunk


def _characters(value: Any) -> int:
    if isinstance(value, str | bytes):
        return len(value)
    if isinstance(value, dict):
        return sum(map(_characters, value.values()))
    return sum(map(_characters, value)) if isinstance(value, list | tuple) else 8
