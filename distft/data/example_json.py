"""Examples as JSON and back: how the store keeps what a row says."""

from __future__ import annotations

import base64
import json
from dataclasses import fields
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, Final, get_args

from distft.common.errors import UserError
from distft.data.formats import Example, Message

_KINDS: Final[dict[str, Any]] = {kind.__name__: kind for kind in get_args(Example)}
# Values of a parquet or hub column that JSON has no form for. The name of the form stands in place of a key.
_FORM: Final = "__distft__"


def example_text(example: Example, *, keep_columns: bool) -> bytes:
    """An example as JSON, without its place; ``keep_columns``: with the columns that no format knows.

    UserError naming the column whose values have no form.
    """
    said = {item.name: _content(getattr(example, item.name)) for item in fields(example)}
    del said["where"], said["extra"]
    if keep_columns:
        said["extra"] = dict(example.extra)
    try:
        return json.dumps([type(example).__name__, said], default=_formed, separators=(",", ":")).encode()
    except (TypeError, ValueError) as error:
        raise UserError(
            f"column {_formless(example)} cannot be kept for reward functions: {error}", where=example.where,
            hint="leave the column out of the data, or turn it into text or numbers",
        ) from error  # fmt: skip


def example_from(text: bytes, where: str) -> Example:
    """The example that ``example_text`` was given."""
    kind, said = json.loads(text, object_hook=_read)
    values = {name: value if name == "extra" else _messages(value) for name, value in said.items()}
    example: Example = _KINDS[kind](**values, where=where)
    return example


def _content(value: Any) -> Any:
    if isinstance(value, Message):
        return vars(value)
    return [_content(item) for item in value] if isinstance(value, tuple) else value


def _messages(value: Any) -> Any:
    if isinstance(value, dict):
        return Message(**value)
    return tuple(_messages(item) for item in value) if isinstance(value, list) else value


def _formless(example: Example) -> str:
    for name, value in example.extra.items():
        try:
            json.dumps(value, default=_formed)
        except (TypeError, ValueError):
            return f"`{name}`"
    return ""


def _formed(value: Any) -> dict[str, str]:
    if isinstance(value, bytes):
        return {_FORM: "bytes", "is": base64.b64encode(value).decode()}
    if isinstance(value, datetime | date | time):
        return {_FORM: type(value).__name__, "is": value.isoformat()}
    if isinstance(value, Decimal):
        return {_FORM: "Decimal", "is": str(value)}
    if isinstance(value, timedelta):
        return {_FORM: "timedelta", "is": str(value // timedelta(microseconds=1))}
    raise TypeError(f"{type(value).__name__} has no form in JSON")


def _read(found: dict[str, Any]) -> Any:
    if _FORM not in found:
        return found
    return _READ[found[_FORM]](found["is"])


_READ: Final[dict[str, Any]] = {
    "bytes": base64.b64decode,
    "datetime": datetime.fromisoformat,
    "date": date.fromisoformat,
    "time": time.fromisoformat,
    "Decimal": Decimal,
    "timedelta": lambda text: timedelta(microseconds=int(text)),
}
