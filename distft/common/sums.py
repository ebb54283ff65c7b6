"""``SHA256SUMS`` of a folder, as coreutils write it: ``sha256sum -c SHA256SUMS`` checks it without distft, too."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable
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
    lines = [f"{digest}  {name}\n" for name, digest in zip(names, _digests(folder, names), strict=True)]
    write_atomic(folder / SUMS, "".join(lines))


def sum_faults(folder: Path) -> list[str]:
    """What is not as it was when the sums were written, a line a file; nothing where there are no sums."""
    path = folder / SUMS
    if not path.is_file():
        return []
    wanted = {}
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        found = _LINE.fullmatch(line)
        if found is None or PurePosixPath(found[2]).is_absolute() or ".." in PurePosixPath(found[2]).parts:
            return [f"{SUMS} is damaged"]
        wanted[found[2]] = found[1]
    faults = [f"{name} is missing" for name in wanted if not (folder / name).is_file()]
    if faults:
        return faults
    digests = zip(wanted.items(), _digests(folder, wanted), strict=True)
    return [f"{name} was changed or damaged" for (name, digest), now in digests if now != digest]


def _digests(folder: Path, names: Iterable[str]) -> list[str]:
    with ThreadPoolExecutor(min(_THREADS, os.cpu_count() or 1)) as threads:
        return list(threads.map(lambda name: sha256_file(folder / name), names))
