"""``SHA256SUMS`` of a folder, as coreutils write it: ``sha256sum -c SHA256SUMS`` checks it without distft, too."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath

from distft.common.files import sha256_file, sync_file, sync_folder, write_atomic

SUMS = "SHA256SUMS"
_LINE = re.compile(r"([0-9a-f]{64}) [ *](.+)")
_THREADS = 8


def write_sums(folder: Path, but: Collection[str] = ()) -> None:
    """Brings all files below the folder to the disk, and then their sums; of those in ``but``, which people may edit,
    none. Raises OSError."""
    inside = [path for path in sorted(folder.rglob("*")) if path.name != SUMS]
    files = [path for path in inside if path.is_file()]
    for path in files:
        sync_file(path)
    for path in [path for path in inside if path.is_dir()]:
        sync_folder(path)
    names = [name for path in files if (name := path.relative_to(folder).as_posix()) not in but]
    digests = _each(lambda name: sha256_file(folder / name), names)
    lines = [f"{digest}  {name}\n" for name, digest in zip(names, digests, strict=True)]
    write_atomic(folder / SUMS, "".join(lines))


def sum_faults(folder: Path) -> list[str]:
    """What is not as it was when the sums were written, a line a file; nothing where there are no sums."""
    path = folder / SUMS
    if not path.is_file():
        return []
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        return [f"{SUMS} cannot be read: {error}"]
    wanted = {}
    for line in lines:
        found = _LINE.fullmatch(line)
        if found is None or PurePosixPath(found[2]).is_absolute() or ".." in PurePosixPath(found[2]).parts:
            return [f"{SUMS} is damaged"]
        wanted[found[2]] = found[1]
    faults = [f"{name} is missing" for name in wanted if not (folder / name).is_file()]
    return faults or hash_faults(folder, wanted)


def hash_faults(folder: Path, wanted: Mapping[str, str]) -> list[str]:
    """The files, by their paths below the folder, that cannot be read or have another hash; a line a file."""

    def fault(name: str) -> str:
        try:
            same = sha256_file(folder / name) == wanted[name]
        except OSError as error:
            return f"{name} cannot be read: {error}"
        return "" if same else f"{name} was changed or damaged: its hash differs"

    return [found for found in _each(fault, wanted) if found]


def _each(work: Callable[[str], str], names: Iterable[str]) -> list[str]:
    with ThreadPoolExecutor(min(_THREADS, os.cpu_count() or 1)) as threads:
        return list(threads.map(work, names))
