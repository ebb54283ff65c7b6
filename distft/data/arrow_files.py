"""Files of record batches that are whole or not there."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa  # type: ignore[import-untyped]

from distft.common.files import sync_file, sync_folder
from distft.data.records import SCHEMA


@contextmanager
def appearing(path: Path) -> Iterator[pa.ipc.RecordBatchFileWriter]:
    """A writer of record batches into a file that is there only once it is whole and on the disk."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")
    try:
        with pa.OSFile(str(temporary), "wb") as sink, pa.ipc.new_file(sink, SCHEMA) as writer:
            yield writer
        sync_file(temporary)
        os.rename(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)
