"""Rows of local files: jsonl, json, csv and parquet, each optionally gzipped. Every row knows its place."""

from __future__ import annotations

import csv
import gzip
import io
import json
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from distft.common.errors import UserError, nearest
from distft.data.formats import Row

SUFFIXES = (".jsonl", ".json", ".csv", ".parquet")

_FORM = {
    ".jsonl": "a .jsonl file has one object a line",
    ".json": "a .json file has a list of objects",
    ".csv": "a .csv file has a header, and quotes around a field with commas or line breaks",
    ".parquet": "a .parquet file has rows with named columns",
}


def data_suffix(path: Path) -> str:
    """The suffix that says how a file is read, without ``.gz``; "" where it is none of SUFFIXES."""
    name = path.name.lower().removesuffix(".gz")
    return next((suffix for suffix in SUFFIXES if name.endswith(suffix)), "")


def read_file(path: Path) -> Iterator[Row]:
    """The rows of one file, in order.

    UserError, with ``file:line`` where there is one: unknown extension, unreadable, damaged or empty file,
    bytes that are not UTF-8, malformed lines (with the parser's reason), rows that are not objects.
    """
    reader = _READERS.get(data_suffix(path))
    if reader is None:
        raise UserError(
            f"cannot tell how to read a {path.suffix or 'nameless'} file",
            where=str(path),
            hint=f"{', '.join(SUFFIXES)} are read, each also with .gz",
        )
    empty = True
    try:
        with _open(path) as stream:
            for row in reader(stream, str(path)):
                empty = False
                yield row
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UserError(f"not a whole gzip file: {error}", where=str(path), hint="copy it again") from error
    except OSError as error:
        raise UserError(
            f"cannot be read: {error.strerror or error}", where=str(path), hint="may you read it?"
        ) from error
    if empty:
        raise UserError("the file has no rows", where=str(path), hint=_FORM[data_suffix(path)])


def missing_file(path: Path) -> UserError:
    """The error for a path that is not there: names the nearest file of that folder."""
    folder = path.parent
    if not folder.is_dir():
        return UserError("there is no such file", where=str(path), hint=f"there is no folder {folder} either")
    near = nearest(path.name, sorted(item.name for item in folder.iterdir()))
    hint = f"did you mean {folder / near}?" if near else f"no file of a similar name is in {folder.resolve()}"
    return UserError("there is no such file", where=str(path), hint=hint)


def _open(path: Path) -> IO[bytes]:
    if path.suffix.lower() == ".gz":
        return gzip.open(path, "rb")  # type: ignore[return-value]
    return path.open("rb")


def _read_jsonl(stream: IO[bytes], name: str) -> Iterator[Row]:
    for number, raw in enumerate(stream, 1):
        where = f"{name}:{number}"
        line = _decoded(raw, where, first=number == 1).rstrip("\r\n")
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (json.JSONDecodeError, RecursionError) as error:
            raise _malformed(error, where, line) from error
        yield _object(value, where)


def _read_json(stream: IO[bytes], name: str) -> Iterator[Row]:
    """A list of objects, or objects one after the other (JSON lines under the wrong name)."""
    text = _decoded_whole(stream.read(), name)
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
            raise _malformed(error, where, "") from error
        yield _object(value, where)
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


def _read_csv(stream: IO[bytes], name: str) -> Iterator[Row]:
    lines = io.StringIO(_decoded_whole(stream.read(), name), newline="")
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    reader = csv.reader(lines, strict=True)
    place = 1
    try:
        header = next(reader, None)
        if header is None:
            return
        if len(set(header)) != len(header):
            what = f"two columns of the header have one name: {', '.join(header)}"
            raise UserError(what, where=f"{name}:1", hint="rename one of them")
        place = reader.line_num + 1
        for fields in reader:
            if fields:
                if len(fields) != len(header):
                    what = f"{len(fields)} fields where the header has {len(header)}"
                    raise UserError(what, where=f"{name}:{place}", hint=_FORM[".csv"])
                yield Row(dict(zip(header, fields, strict=True)), f"{name}:{place}")
            place = reader.line_num + 1
    except csv.Error as error:
        raise UserError(f"malformed CSV: {error}", where=f"{name}:{place}", hint=_FORM[".csv"]) from error


def _read_parquet(stream: IO[bytes], name: str) -> Iterator[Row]:
    import pyarrow  # type: ignore[import-untyped]
    import pyarrow.parquet  # type: ignore[import-untyped]

    number = 0
    try:
        source = stream if not isinstance(stream, gzip.GzipFile) else io.BytesIO(stream.read())
        for batch in pyarrow.parquet.ParquetFile(source).iter_batches(batch_size=1024):
            for values in batch.to_pylist():
                number += 1
                yield Row(values, f"{name}:{number}")
    except pyarrow.ArrowInvalid as error:
        raise UserError(
            f"not a parquet file: {error}", where=name, hint="is it whole, and named for what it is?"
        ) from error


_READERS = {".jsonl": _read_jsonl, ".json": _read_json, ".csv": _read_csv, ".parquet": _read_parquet}


def _decoded(raw: bytes, where: str, *, first: bool) -> str:
    try:
        return raw.decode("utf-8-sig" if first else "utf-8")
    except UnicodeDecodeError as error:
        byte = error.object[error.start]
        raise UserError(
            f"byte {error.start + 1} of the line (0x{byte:02x}) is not UTF-8", where=where,
            hint="save the file as UTF-8",
        ) from error  # fmt: skip


def _decoded_whole(raw: bytes, name: str) -> str:
    lines = raw.split(b"\n")
    return "\n".join(_decoded(line, f"{name}:{number}", first=number == 1) for number, line in enumerate(lines, 1))


def _malformed(error: Exception, where: str, line: str) -> UserError:
    if not isinstance(error, json.JSONDecodeError):
        return UserError("malformed JSON: nested too deep", where=where, hint=_FORM[".jsonl"])
    hint = "rename a list of objects to .json" if line.strip() == "[" else f"is the row cut off? {_FORM['.jsonl']}"
    return UserError(f"malformed JSON at column {error.colno}: {error.msg}", where=where, hint=hint)


def _object(value: Any, where: str) -> Row:
    if not isinstance(value, dict):
        what = f"a row must be an object with named columns, not {_json_name(value)}"
        raise UserError(what, where=where, hint='for example {"prompt": "...", "completion": "..."}')
    return Row(value, where)


def _json_name(value: Any) -> str:
    if value is None:
        return "null"
    return {str: "a text", bool: "true or false", list: "a list"}.get(type(value), "a number")


def _skip_blank(text: str, place: int) -> int:
    while place < len(text) and text[place] in " \t\r\n":
        place += 1
    return place
