"""Files that survive a crash: written whole or not at all, synced before they count."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from distft.common.errors import nearest

_log = logging.getLogger(__name__)
_BLOCK = 4 * 1024 * 1024
_LINE_ENDS = "\x85\u2028\u2029"


def write_atomic(path: Path, data: bytes | str) -> None:
    """Write ``path`` so that a reader, or a crash, sees the old content or the new, never a part.

    Temporary file in the same folder, sync, rename, sync of the folder. Raises OSError, leaving the
    old content and no temporary file.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")
    try:
        write_synced(temporary, data)
        os.rename(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def write_synced(path: Path, data: bytes | str) -> None:
    """Create ``path`` (it must not exist) with this content and sync it. Raises OSError."""
    content = data.encode() if isinstance(data, str) else data
    with open(path, "xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def write_json(path: Path, value: Any) -> None:
    """``write_atomic`` of indented JSON. Raises ValueError for NaN and infinity, which JSON has not."""
    write_atomic(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def parse_json(text: bytes | str) -> Any:
    """As ``json.loads``, but what is nested too deeply raises ValueError like all else that cannot be read."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def sync_file(path: Path) -> None:
    """Bring a file's content to the disk. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(path: Path) -> None:
    """Bring a folder's entries (creations, renames) to the disk. Raises OSError."""
    sync_file(path)


def tail(path: Path, num_bytes: int) -> bytes:
    """The last bytes of a file; all of one that is no longer. Raises OSError."""
    with open(path, "rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - num_bytes))
        return file.read()


def last_lines(path: Path, count: int, *, within: int = 64 * 1024) -> list[str]:
    """The last lines of a log, of its last bytes at that; none where it cannot be read."""
    try:
        return tail(path, within).decode("utf-8", "replace").splitlines()[-count:]
    except OSError:
        return []


def nearest_beside(path: Path, *, folders: bool = False) -> Path | None:
    """What lies beside a path that is not there, under the name nearest to its own; None where nothing does.
    ``folders``: of these alone."""
    if not path.parent.is_dir():
        return None
    there = {item.name for item in path.parent.iterdir() if item.is_dir() or not folders}
    others = there - {path.name}  # it may be there as a link to nowhere
    near = nearest(path.name, sorted(others))
    return path.parent / near if near else None


def sha256_file(path: Path) -> str:
    """The hex digest of a file's content, read in blocks. Raises OSError."""
    digest = hashlib.sha256()
    with open(path, "rb", buffering=0) as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


class JsonlWriter:
    """Appends JSON lines, each synced, or not ``synced``: brought to the disk when the system thinks fit. A part of a
    line is never left behind.

    A last line torn by a crash is cut off on opening. A line that does not fit on the disk is taken
    back before the OSError is raised.
    """

    def __init__(self, path: Path, *, synced: bool = True) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path, self._synced = path, synced
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
        self._cut_torn_line()

    def append(self, *records: Mapping[str, Any]) -> None:
        """Add the records, and sync once.

        Raises OSError (nothing added); ValueError or TypeError for what is not JSON, NaN included.
        """
        content = b"".join(_line(record) for record in records)
        before = os.fstat(self._descriptor).st_size
        try:
            written = 0
            while written < len(content):
                written += os.write(self._descriptor, content[written:])
            if self._synced:
                os.fsync(self._descriptor)
        except OSError:
            os.ftruncate(self._descriptor, before)
            raise

    def close(self) -> None:
        """Close the file; a second call does nothing."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:  # fmt: skip
        self.close()

    def _cut_torn_line(self) -> None:
        end = os.fstat(self._descriptor).st_size
        start = end
        while start > 0:
            size = min(_BLOCK, start)
            start -= size
            newline = os.pread(self._descriptor, size, start).rfind(b"\n")
            if newline >= 0:
                start += newline + 1
                break
        if start < end:
            _log.warning("%s: cut off a last line torn by a crash (%d bytes)", self.path, end - start)
            os.ftruncate(self._descriptor, start)


def whole_record(line: bytes) -> dict[str, Any] | None:
    """The object of a line of JSON; None for a torn line, which has no end, and for what is no object."""
    if not line.endswith(b"\n"):
        return None
    try:
        record = parse_json(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) else None


def keep_lines(path: Path, keep: Callable[[dict[str, Any]], bool]) -> int:
    """Rewrite a JSON-lines file, atomically, with the records that ``keep`` accepts.

    Returns how many lines went, lines that are not JSON objects among them. A missing file counts as
    empty; a file that loses nothing is not touched. Raises OSError.
    """
    if not path.exists():
        return 0
    kept, dropped = [], 0
    with open(path, "rb") as file:
        for line in file:
            record = whole_record(line)
            if record is not None and keep(record):
                kept.append(line)
            else:
                dropped += 1
    if dropped:
        write_atomic(path, b"".join(kept))
    return dropped


def _line(record: Mapping[str, Any]) -> bytes:
    """Readable text, but no character that some readers take for the end of a line."""
    text = json.dumps(record, allow_nan=False, ensure_ascii=False)
    for character in _LINE_ENDS:
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text.encode(errors="backslashreplace") + b"\n"  # lone surrogates: their JSON escape is the same
