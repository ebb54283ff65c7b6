"""Rows of local files: jsonl, json, csv, parquet, arrow and txt, each optionally gzipped. Every row knows its place."""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
import sys
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from distft.common.errors import UserError
from distft.common.files import nearest_beside
from distft.data.bad_rows import UTF8, BadRow, OnBadRow, stop, unparsed
from distft.data.columnar_files import read_arrow, read_parquet
from distft.data.formats import Row

TEXT = ".txt"
SUFFIXES = (".jsonl", ".json", ".csv", ".parquet", ".arrow", TEXT)

_FORM = {
    ".jsonl": "a .jsonl file has one object a line",
    ".json": "a .json file has a list of objects",
    ".csv": "a .csv file has a header, and quotes around a field with commas or line breaks",
    ".parquet": "a .parquet file has rows with named columns",
    ".arrow": "an .arrow file has rows with named columns, as `save_to_disk` writes them",
    TEXT: "a .txt file has one text a line",
}
# A surrogate spelled out in JSON (\ud83d): two make one character, one alone is no text.
_SURROGATE_ESCAPE = re.compile(r"\\u[dD][89a-fA-F]")


def data_suffix(path: Path) -> str:
    """The suffix that says how a file is read, without ``.gz``; "" where it is none of SUFFIXES."""
    name = path.name.lower().removesuffix(".gz")
    if name.endswith(".ndjson"):
        return ".jsonl"
    return next((suffix for suffix in SUFFIXES if name.endswith(suffix)), "")


def read_files(paths: Sequence[Path], on_bad: OnBadRow = stop) -> Iterator[Row]:
    """The rows of files, in order. As ``read_file``, but that one of several may be empty (a shard without rows)."""
    empty = True

    def told(bad: BadRow) -> None:
        nonlocal empty
        empty = False  # a row that is wrong is one
        on_bad(bad)

    for path in paths:
        for row in _rows_of(path, told):
            empty = False
            yield row
    if empty and paths:
        what = "the file has no rows" if len(paths) == 1 else f"none of the {len(paths)} files has a row"
        raise UserError(what, where=str(paths[0]), hint=_FORM[data_suffix(paths[0])])


def read_file(path: Path, on_bad: OnBadRow = stop) -> Iterator[Row]:
    """The rows of one file, in order.

    ``on_bad`` is called with each row that is wrong by itself, ``file:line``, and may raise it: malformed lines (with
    the parser's reason), bytes that are not UTF-8, halves of a character, rows that are not objects. UserError for the
    rest: unknown extension, unreadable, damaged or empty file, a .json list that is malformed anywhere.
    """
    return read_files([path], on_bad)


def _rows_of(path: Path, on_bad: OnBadRow) -> Iterator[Row]:
    reader = _READERS.get(data_suffix(path))
    if reader is None:
        raise UserError(
            f"cannot tell how to read a {path.suffix or 'nameless'} file",
            where=str(path),
            hint=f"{', '.join(SUFFIXES)} are read, each also with .gz",
        )
    try:
        with _open(path) as stream:
            yield from reader(stream, str(path), on_bad)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UserError(f"not a whole gzip file: {error}", where=str(path), hint="copy it again") from error
    except OSError as error:
        raise UserError(
            f"cannot be read: {error.strerror or error}", where=str(path), hint="may you read it?"
        ) from error


def missing_file(path: Path) -> UserError:
    """The error for a path that is not there: names the nearest file of that folder."""
    folder = path.parent
    if not folder.is_dir():
        return UserError("there is no such file", where=str(path), hint=f"there is no folder {folder} either")
    near = nearest_beside(path)
    hint = f"did you mean {near}?" if near else f"no file of a similar name is in {folder.resolve()}"
    return UserError("there is no such file", where=str(path), hint=hint)


def _open(path: Path) -> IO[bytes]:
    if path.suffix.lower() == ".gz":
        return gzip.open(path, "rb")  # type: ignore[return-value]
    return path.open("rb")


def _read_jsonl(stream: IO[bytes], name: str, on_bad: OnBadRow) -> Iterator[Row]:
    for number, raw in enumerate(stream, 1):
        try:
            line = _decoded(raw, f"{name}:{number}", first=number == 1).rstrip("\r\n")
            if not line.strip():
                continue
            try:
                value = json.loads(line)
            except (json.JSONDecodeError, RecursionError) as error:
                raise _malformed(error, f"{name}:{number}", line) from error
            row = _object(value, f"{name}:{number}", escaped=_SURROGATE_ESCAPE.search(line) is not None)
        except BadRow as bad:
            on_bad(bad)
        else:
            yield row


def _read_json(stream: IO[bytes], name: str, on_bad: OnBadRow) -> Iterator[Row]:
    """A list of objects, or objects one after the other (JSON lines under the wrong name)."""
    text = _decoded_whole(stream.read(), name)
    escaped = _SURROGATE_ESCAPE.search(text) is not None
    decoder, place, line = json.JSONDecoder(), _skip_blank(text, 0), 1
    counted, in_list = 0, text[place : place + 1] == "["
    place = _skip_blank(text, place + in_list)
    while place < len(text) and not (in_list and text[place] == "]"):
        line, counted = line + text.count("\n", counted, place), place
        where = f"{name}:{line}"
        try:
            value, place = decoder.raw_decode(text, place)
        except (json.JSONDecodeError, RecursionError) as error:
            if isinstance(error, json.JSONDecodeError):
                where = f"{name}:{error.lineno}"
            raise _whole(_malformed(error, where, "")) from error
        try:
            row = _object(value, where, escaped=escaped)
        except BadRow as bad:
            on_bad(bad)
        else:
            yield row
        place = _skip_blank(text, place)
        if in_list and text[place : place + 1] == ",":
            place = _skip_blank(text, place + 1)
        elif in_list and place < len(text) and text[place] != "]":
            line += text.count("\n", counted, place)
            what = "malformed JSON: the list does not go on with , or end with ]"
            raise UserError(what, where=f"{name}:{line}", hint="look at the end of the row before")
    if in_list and place >= len(text):
        raise UserError(
            "malformed JSON: the list is not closed", where=name, hint="is the file whole? it must end with ]"
        )


def _read_csv(stream: IO[bytes], name: str, on_bad: OnBadRow) -> Iterator[Row]:
    # A byte that is no UTF-8 becomes a lone surrogate, so that only its row is bad.
    lines = io.StringIO(stream.read().decode("utf-8-sig", "surrogateescape"), newline="")
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    reader = csv.reader(lines, strict=True)
    place = 1
    try:
        header = next(reader, None)
        if header is None:
            return
        if len(header) == 1 and (mark := next((mark for mark in ";\t|" if mark in header[0]), "")):
            what = f"the header has one column, {header[0]!r}: it is separated by {mark!r}, not by commas"
            raise UserError(what, where=f"{name}:1", hint="save the file with commas between the fields")
        if len(set(header)) != len(header):
            what = f"two columns of the header have one name: {', '.join(header)}"
            raise UserError(what, where=f"{name}:1", hint="rename one of them")
        place = reader.line_num + 1
        for fields in reader:
            if byte := _stray_byte(fields):
                on_bad(unparsed(f"a byte of the row (0x{byte:02x}) is not UTF-8", f"{name}:{place}", UTF8, fields))
            elif len(fields) == len(header):
                yield Row(dict(zip(header, fields, strict=True)), f"{name}:{place}")
            elif fields:
                what = f"{len(fields)} fields where the header has {len(header)}"
                on_bad(unparsed(what, f"{name}:{place}", _FORM[".csv"], fields))
            place = reader.line_num + 1
    except csv.Error as error:
        raise UserError(f"malformed CSV: {error}", where=f"{name}:{place}", hint=_FORM[".csv"]) from error


def _read_txt(stream: IO[bytes], name: str, on_bad: OnBadRow) -> Iterator[Row]:
    """A line, which ends with ``\\n`` or ``\\r\\n``, is a row, its column `text`; blank ones are none."""
    for number, raw in enumerate(stream, 1):
        where = f"{name}:{number}"
        try:
            line = _decoded(raw, where, first=number == 1).removesuffix("\n").removesuffix("\r")
        except BadRow as bad:
            on_bad(bad)
        else:
            if line.strip():
                yield Row({"text": line}, where)


def _stray_byte(fields: list[str]) -> int:
    """The first byte that was no UTF-8 when the fields were decoded; 0 where there is none."""
    found = re.search("[\udc80-\udcff]", "".join(fields))
    return ord(found[0]) - 0xDC00 if found else 0


_READERS = {
    ".jsonl": _read_jsonl,
    ".json": _read_json,
    ".csv": _read_csv,
    ".parquet": read_parquet,
    ".arrow": read_arrow,
    TEXT: _read_txt,
}


def _decoded(raw: bytes, where: str, *, first: bool) -> str:
    try:
        return raw.decode("utf-8-sig" if first else "utf-8")
    except UnicodeDecodeError as error:
        byte = error.object[error.start]
        what = f"byte {error.start + 1} of the line (0x{byte:02x}) is not UTF-8"
        raise unparsed(what, where, UTF8, raw) from error


def _decoded_whole(raw: bytes, name: str) -> str:
    try:
        lines = enumerate(raw.split(b"\n"), 1)
        return "\n".join(_decoded(line, f"{name}:{number}", first=number == 1) for number, line in lines)
    except BadRow as bad:
        raise _whole(bad) from bad


def _malformed(error: Exception, where: str, line: str) -> BadRow:
    if not isinstance(error, json.JSONDecodeError):
        return unparsed("malformed JSON: nested too deep", where, _FORM[".jsonl"], line)
    hint = "rename a list of objects to .json" if line.strip() == "[" else f"is the row cut off? {_FORM['.jsonl']}"
    return unparsed(f"malformed JSON at column {error.colno}: {error.msg}", where, hint, line)


def _object(value: Any, where: str, *, escaped: bool) -> Row:
    """The row that a JSON value is; ``escaped``: surrogates were spelled out, so it may hold one alone."""
    if not isinstance(value, dict):
        what = f"a row must be an object with named columns, not {_json_name(value)}"
        raise unparsed(what, where, 'for example {"prompt": "...", "completion": "..."}', value)
    if escaped and (column := next((name for name, part in value.items() if _has_half([name, part])), None)):
        raise BadRow(
            f"column `{_shown(column)}` holds half of a character ({_half(value[column])}), which is no text",
            where=where, hint="a text cut within an emoji? cut it elsewhere",
            reason="half of a character", content=value,
        )  # fmt: skip
    return Row(value, where)


def _has_half(value: Any) -> bool:
    """Whether a text anywhere within has a surrogate that stands alone."""
    if isinstance(value, str):
        return _half(value) != ""
    if isinstance(value, dict):
        return any(_has_half(part) for pair in value.items() for part in pair)
    return isinstance(value, list) and any(map(_has_half, value))


def _half(value: Any) -> str:
    """The first lone surrogate of a text, as JSON spells it; "" where there is none."""
    found = re.search("[\ud800-\udfff]", value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
    return f"\\u{ord(found[0]):04x}" if found else ""


def _shown(name: str) -> str:
    return name.encode("utf-8", "backslashreplace").decode()


def _whole(bad: BadRow) -> UserError:
    """The error of a row after which the rest of its file cannot be read."""
    return UserError(bad.what, where=bad.where, hint=bad.hint)


def _json_name(value: Any) -> str:
    if value is None:
        return "null"
    return {str: "a text", bool: "true or false", list: "a list"}.get(type(value), "a number")


def _skip_blank(text: str, place: int) -> int:
    while place < len(text) and text[place] in " \t\r\n":
        place += 1
    return place
