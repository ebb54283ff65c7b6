"""The manifest of a checkpoint: every file with size and hash. A manifest that verifies is the commit."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from distft.checkpoint.layout import MANIFEST, step_of
from distft.checkpoint.role_layout import RoleLayout
from distft.common.files import parse_json, sha256_file, sync_file, sync_folder, write_json
from distft.common.sums import hash_faults

FORMAT = 2  # 1: shards as DeepSpeed writes them, for the same ranks only


class ManifestError(Exception):
    """A manifest is missing, unreadable or not whole; the text says which."""


@dataclass(frozen=True)
class FileRecord:
    """One file of a checkpoint: path below the checkpoint's folder (with /), bytes, hex digest."""

    path: str
    size: int
    sha256: str


@dataclass(frozen=True)
class NotWritten:
    """What a rank reports instead when it could not write its files, so that a full disk costs a
    checkpoint and not the rank. ``cause`` names rank and error.
    """

    cause: str


@dataclass(frozen=True)
class Manifest:
    """What a checkpoint consists of and where it comes from.

    ``layouts``: of the ranks that wrote it, by role. ``fingerprint``: of the recipe. ``owner``: token
    of the lease under which it was committed. ``time``: unix seconds.
    """

    step: int
    files: tuple[FileRecord, ...]
    layouts: Mapping[str, RoleLayout]
    fingerprint: str
    owner: str
    attempt: int
    time: float

    @property
    def num_bytes(self) -> int:
        """The size of all files together."""
        return sum(record.size for record in self.files)

    def write(self, folder: Path) -> None:
        """Temporary file, sync, rename, sync of the folder. Raises OSError."""
        body = self._body()
        write_json(folder / MANIFEST, {**body, "sha256": _digest(body)})

    def _body(self) -> dict[str, Any]:
        return {
            "format": FORMAT, "step": self.step, "time": self.time, "attempt": self.attempt, "owner": self.owner,
            "fingerprint": self.fingerprint, "layouts": {role: asdict(layout) for role, layout in self.layouts.items()},
            "files": [{"path": f.path, "size": f.size, "sha256": f.sha256} for f in self.files],
        }  # fmt: skip


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a checkpoint, its own hash checked. Raises ManifestError saying what is wrong with it."""
    path = folder / MANIFEST
    try:
        body = parse_json(path.read_bytes())
    except FileNotFoundError:
        raise ManifestError(f"no {MANIFEST}: it was never committed") from None
    except (OSError, ValueError) as error:
        raise ManifestError(f"{MANIFEST} cannot be read: {error}") from error
    if not isinstance(body, dict):
        raise ManifestError(f"{MANIFEST} is not a mapping")
    if body.get("format") != FORMAT:
        raise ManifestError(f"{MANIFEST} has format {body.get('format')!r}, this distft reads format {FORMAT}: "
                            "what wrote it can go on with it")  # fmt: skip
    if body.pop("sha256", None) != _digest(body):
        raise ManifestError(f"{MANIFEST} does not match its own hash: it was changed after the commit")
    try:
        return Manifest(
            step=int(body["step"]), time=float(body["time"]), attempt=int(body["attempt"]), owner=str(body["owner"]),
            fingerprint=str(body["fingerprint"]),
            layouts={role: _layout(layout) for role, layout in body["layouts"].items()},
            files=tuple(FileRecord(f["path"], f["size"], f["sha256"]) for f in body["files"]),
        )  # fmt: skip
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ManifestError(f"{MANIFEST} lacks something: {error!r}") from error


def faults(folder: Path, *, hashes: bool = True) -> list[str]:
    """Why the checkpoint in ``folder`` cannot be used: one line a fault, empty if it can.

    Names and sizes first; only if these hold is the content read and hashed (``hashes=False``: not).
    """
    try:
        manifest = read_manifest(folder)
    except ManifestError as error:
        return [str(error)]
    step = step_of(folder.name)
    if step is not None and step != manifest.step:
        return [f"{MANIFEST} is of step {manifest.step}"]
    found = size_faults(folder, manifest.files)
    if found or not hashes:
        return found
    return hash_faults(folder, {record.path: record.sha256 for record in manifest.files})


def size_faults(folder: Path, records: Iterable[FileRecord]) -> list[str]:
    """Files that are missing, no plain files, or of another size than recorded."""
    found = []
    for record in records:
        try:
            status = os.lstat(folder / safe_path(record.path))
        except (OSError, ValueError) as error:
            missing = isinstance(error, FileNotFoundError)
            found.append(f"{record.path} is missing" if missing else f"{record.path}: {error}")
            continue
        if not stat.S_ISREG(status.st_mode):
            found.append(f"{record.path} is not a plain file")
        elif status.st_size != record.size:
            found.append(f"{record.path} has {status.st_size} bytes, {record.size} were written")
    return found


def record_files(folder: Path, names: Sequence[str]) -> list[FileRecord]:
    """What a rank reports of the files it wrote below the staging ``folder``: synced, then hashed.

    ``names`` are relative to ``folder``, with / ("policy/rank_00.pt"). The folders between are
    synced too. Raises OSError, or ValueError for a name that leaves the folder.
    """
    records = []
    for name in names:
        path = folder / safe_path(name)
        sync_file(path)
        records.append(FileRecord(name, path.stat().st_size, sha256_file(path)))
    parents = {folder / parent for name in names for parent in PurePosixPath(name).parents}
    for parent in sorted(parents, key=lambda p: -len(p.parts)):
        sync_folder(parent)
    return records


def safe_path(name: str) -> PurePosixPath:
    """The relative path a record names. Raises ValueError if it is absolute or climbs out."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not path.parts:
        raise ValueError(f"{name!r} does not stay inside the checkpoint")
    return path


def _layout(kept: Mapping[str, Any]) -> RoleLayout:
    return RoleLayout(int(kept["ranks"]), int(kept["zero_stage"]), tuple(str(part) for part in kept["offloaded"]))


def _digest(body: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
