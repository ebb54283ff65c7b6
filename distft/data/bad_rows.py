"""Rows that are wrong by their own fault: the first one stops the run, or so many are named, counted and left out."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable
from typing import Any, Final, Literal, TypeAlias

from distft.common.errors import UserError
from distft.config.data import Data

Reason: TypeAlias = Literal[
    "cannot be parsed", "wrong columns or types", "half of a character", "refused by the chat template"
]
UTF8: Final = "save the file as UTF-8"


class BadRow(UserError):
    """One row that is wrong. ``reason`` is what it is counted under; its ``content`` (the line's bytes, or the row's
    values) is known by a hash, ``digest``, so that the row is found where lines have moved. ``typical``: most likely
    all rows of the source are so.
    """

    def __init__(self, what: str, *, where: str, hint: str, reason: Reason, content: object = b"",
                 typical: bool = False) -> None:  # fmt: skip
        super().__init__(what, where=where, hint=hint)
        self.reason: Reason = reason
        self.typical = typical
        self.digest = _digest(content)

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (self.what, self.where, self.hint, self.reason, self.digest, self.typical))


class Unusable(Exception):
    """A row that is well formed and that nothing can be learned from; its text is the reason, the same for all rows of
    that sort."""


def unparsed(what: str, where: str, hint: str, content: object = b"") -> BadRow:
    """A row that could not be read at all."""
    return BadRow(what, where=where, hint=hint, reason="cannot be parsed", content=content)


OnBadRow: TypeAlias = Callable[[BadRow], None]


def stop(row: BadRow) -> None:
    """Raises the row."""
    raise row


class BadRows:
    """What ``data.on_bad_row`` says is done about the bad rows of a list. To be called with each of them.

    ``fail``: UserError for the first. ``drop``: it is kept in ``rows`` and reading goes on, until there are more than
    ``data.max_dropped`` of them: UserError naming the first. The order of the other rows stays as it was.
    """

    def __init__(self, data: Data, list_name: str) -> None:
        self._data, self._list_name = data, list_name
        self.rows: list[BadRow] = []

    def __call__(self, row: BadRow) -> None:
        if self._data.on_bad_row == "fail":
            hint = row.hint if row.typical else f"{row.hint}; data.on_bad_row=drop leaves such rows out"
            raise UserError(row.what, where=row.where, hint=hint) from row
        self.rows.append(row)
        if len(self.rows) > self._data.max_dropped:
            first, reasons = self.rows[0], Counter(bad.reason for bad in self.rows)
            listed = "; ".join(f"{count} {reason}" for reason, count in sorted(reasons.items()))
            raise UserError(
                f"more than {self._data.max_dropped} rows of data.{self._list_name} are wrong ({listed}); "
                f"the first: {first.what}",
                where=first.where,
                hint=f"{first.hint}; data.max_dropped is how many may be left out",
            )


def _digest(content: Any) -> str:
    raw = content if isinstance(content, bytes) else repr(content).encode("utf-8", "surrogatepass")
    return hashlib.blake2b(raw, digest_size=8).hexdigest()


def _rebuild(what: str, where: str, hint: str, reason: Reason, digest: str, typical: bool) -> BadRow:
    row = BadRow(what, where=where, hint=hint, reason=reason, typical=typical)
    row.digest = digest
    return row
