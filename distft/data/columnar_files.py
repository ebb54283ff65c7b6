"""Rows of files that hold columns: parquet and arrow."""

from __future__ import annotations

import gzip
import io
from collections.abc import Iterable, Iterator
from typing import IO, Any

from distft.common.errors import UserError
from distft.data.bad_rows import UTF8, OnBadRow, unparsed
from distft.data.formats import Row


def read_parquet(stream: IO[bytes], name: str, on_bad: OnBadRow) -> Iterator[Row]:
    """The rows of a parquet file. UserError where it is none."""
    import pyarrow  # type: ignore[import-untyped]
    import pyarrow.parquet  # type: ignore[import-untyped]

    try:
        source = stream if not isinstance(stream, gzip.GzipFile) else io.BytesIO(stream.read())
        yield from _batches(pyarrow.parquet.ParquetFile(source).iter_batches(batch_size=1024), name, on_bad)
    except pyarrow.ArrowInvalid as error:
        raise UserError(
            f"not a parquet file: {error}", where=name, hint="is it whole, and named for what it is?"
        ) from error


def read_arrow(stream: IO[bytes], name: str, on_bad: OnBadRow) -> Iterator[Row]:
    """The rows of an arrow file: the stream format, which `datasets` writes, or the file format. UserError where it is
    neither."""
    import pyarrow
    import pyarrow.ipc  # type: ignore[import-untyped]

    try:
        source = io.BytesIO(stream.read()) if isinstance(stream, gzip.GzipFile) else stream
        is_file = source.read(6) == b"ARROW1"
        source.seek(0)
        if is_file:
            reader = pyarrow.ipc.open_file(source)
            batches = (reader.get_batch(number) for number in range(reader.num_record_batches))
        else:
            batches = iter(pyarrow.ipc.open_stream(source))
        yield from _batches(batches, name, on_bad)
    except pyarrow.ArrowInvalid as error:
        raise UserError(
            f"not an arrow file: {error}", where=name, hint="is it whole, and named for what it is?"
        ) from error


def _batches(batches: Iterable[Any], name: str, on_bad: OnBadRow) -> Iterator[Row]:
    number = 0
    for batch in batches:
        for values in _plain_rows(batch):
            number += 1
            if values is not None:
                yield Row(values, f"{name}:{number}")
            else:
                on_bad(unparsed("a text of the row is not UTF-8", f"{name}:{number}", UTF8))


def _plain_rows(batch: Any) -> Iterator[dict[str, Any] | None]:
    """The rows of a batch, None for one with bytes that are no text (files written without a look at them)."""
    try:
        yield from batch.to_pylist()
    except UnicodeDecodeError:
        for place in range(batch.num_rows):
            try:
                yield batch.slice(place, 1).to_pylist()[0]
            except UnicodeDecodeError:
                yield None
