"""Commits checkpoints, finds the newest good one, deletes old ones. Runs in the driver; no torch.

All groups write below a staging folder; when every rank has reported its files, ``commit`` makes
them a checkpoint by a rename. Whatever dies at whatever moment, the newest checkpoint whose
manifest verifies is a whole one.
"""

from __future__ import annotations

import json
import logging
import math
import os
import secrets
import shutil
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from distft.checkpoint.layout import (
    PROGRESS,
    TRASH,
    aside,
    aside_name,
    checkpoints_folder,
    published,
    staging_name,
    step_name,
)
from distft.checkpoint.manifest import (
    FileRecord,
    Manifest,
    ManifestError,
    NotWritten,
    faults,
    read_manifest,
    record_files,
    size_faults,
)
from distft.checkpoint.role_layout import RoleLayout
from distft.common.errors import DistftError, UserError
from distft.common.files import sync_folder, write_synced

_log = logging.getLogger(__name__)


class SaveFailed(DistftError):
    """A checkpoint could not be written; the one before is intact. The loop counts these."""


class Owner(Protocol):
    """Who may commit: in a run, the ``Lease``."""

    @property
    def token(self) -> str:
        """The fencing token."""
        ...

    def require(self) -> None:
        """Raises LeaseLost if the run folder belongs to another process."""
        ...


@dataclass(frozen=True)
class Found:
    """A checkpoint that verified. ``rejected``: newer ones and why each was refused; ``in_memory``: it is a copy in
    the memory of the nodes, see ``controller.mirror``."""

    path: Path
    step: int
    progress: dict[str, Any]
    manifest: Manifest
    rejected: tuple[tuple[Path, str], ...] = ()
    in_memory: bool = False


class Coordinator:
    """The only writer of ``RUN/checkpoints``.

    ``keep`` >= 1 newest checkpoints stay, and that of the step ``pinned`` (0: none); ``fingerprint`` of the recipe and
    ``attempt`` go into the manifest.
    """

    def __init__(self, run_dir: Path, keep: int, owner: Owner, *, fingerprint: str = "", attempt: int = 1) -> None:
        if keep < 1:
            raise ValueError(f"keep is {keep}: the newest checkpoint always stays")
        self.folder = checkpoints_folder(run_dir)
        self.attempt, self.pinned = attempt, 0
        self._keep, self._owner, self._fingerprint = keep, owner, fingerprint
        self._damaged: set[Path] = set()
        self._staging: dict[int, Path] = {}

    def begin(self, step: int) -> Path:
        """A new staging folder for all ranks to write into. Raises SaveFailed, LeaseLost."""
        self._require("begin", step)
        staging = self.folder / staging_name(step, self.attempt)
        try:
            if not self.folder.is_dir():
                self.folder.mkdir(parents=True)
                sync_folder(self.folder.parent)
            staging.mkdir()
            sync_folder(self.folder)
        except OSError as error:
            raise SaveFailed(f"checkpoint of step {step}: {error}") from error
        self._staging[step] = staging
        return staging

    def commit(
        self,
        step: int,
        files: Iterable[FileRecord | NotWritten],
        progress: Mapping[str, Any],
        layouts: Mapping[str, RoleLayout],
    ) -> Path:
        """Publish what all ranks have reported since ``begin(step)``; then delete what ``keep`` does not cover.

        ``progress``: the controller's state, as JSON. ``layouts``: of the ranks, by role. Raises
        SaveFailed (the staging folder is removed, the former checkpoints are as before), LeaseLost
        (nothing is touched), KeyError without a ``begin``.
        """
        staging = self._staging[step]
        try:
            self._require("commit", step)
            self._seal(staging, step, files, progress, layouts)
            self._require("commit", step)
            path = self._publish(staging, step)
        except (OSError, SaveFailed) as error:
            self.abandon(step)
            raise SaveFailed(f"checkpoint of step {step}: {error}; the former checkpoints are intact") from error
        del self._staging[step]
        self._damaged.discard(path)
        self._clean(path)
        return path

    def abandon(self, step: int) -> None:
        """Remove the staging folder of a save that did not succeed. Never raises for a full or lost disk."""
        staging = self._staging.pop(step, None)
        if staging is not None and os.path.exists(staging):  # Path.exists raises on a lost disk
            self._discard(staging)

    def abandon_staging(self) -> list[Path]:
        """At start, after the lease and before ``newest``: clear what former attempts left half done.

        Staging folders go (which also stops a former owner that wakes up from publishing one); a
        checkpoint that had stepped aside for a commit that never came is put back; the trash is emptied.
        Returns the staging folders. Raises LeaseLost, OSError.
        """
        self._require("start", 0)
        gone = []
        for entry in aside(self.folder):
            if entry.kind == "staging":
                gone.append(entry.path)
                self._discard(entry.path)
            elif entry.kind == "replaced":
                home = self.folder / step_name(entry.step)
                if home.exists():
                    self._discard(entry.path)
                else:
                    os.rename(entry.path, home)
                    sync_folder(self.folder)
        self._empty_trash()
        return gone

    def newest(self) -> Found | None:
        """The newest checkpoint that verifies, hashes included; None if there has never been one.

        Raises UserError if there are checkpoints and none can be used: a run never starts silently
        from scratch.
        """
        found = newest_checkpoint(self.folder)
        if found is not None:
            self._damaged.update(path for path, _ in found.rejected)
        return found

    def rewind(self, step: int) -> list[Path]:
        """The user goes back to ``step`` (-1: to the beginning): later checkpoints no longer count.

        They step aside, so that ``newest`` does not find them, and are deleted after the next commit.
        Returns where they were. Raises LeaseLost, OSError.
        """
        self._require("rewind", step)
        moved = []
        for other, path in published(self.folder):
            if other > step:
                os.rename(path, self.folder / aside_name("superseded", other))
                moved.append(path)
        if moved:
            sync_folder(self.folder)
            _log.warning("checkpoints after step %d are superseded: %s", step, ", ".join(p.name for p in moved))
        return moved

    def _seal(self, staging: Path, step: int, files: Iterable[FileRecord | NotWritten],
              progress: Mapping[str, Any], layouts: Mapping[str, RoleLayout]) -> None:  # fmt: skip
        """progress.json and the manifest, on the disk. The files' content was synced by their ranks."""
        records = _merged(files)
        missing = size_faults(staging, records)
        if missing:
            raise SaveFailed("; ".join(missing))
        write_synced(staging / PROGRESS, json.dumps(progress, allow_nan=False, indent=1) + "\n")
        records += record_files(staging, [PROGRESS])
        manifest = Manifest(step, tuple(records), layouts, self._fingerprint, self._owner.token, self.attempt,
                            time.time())  # fmt: skip
        manifest.write(staging)

    def _publish(self, staging: Path, step: int) -> Path:
        path = self.folder / step_name(step)
        former = self.folder / aside_name("replaced", step) if path.exists() else None
        if former is not None:
            os.rename(path, former)
        try:
            os.rename(staging, path)
        except OSError:
            if former is not None:
                os.rename(former, path)
            raise
        sync_folder(self.folder)
        return path

    def _clean(self, committed: Path) -> None:
        """After a commit. A failure here costs space and nothing else."""
        try:
            for entry in aside(self.folder):
                if entry.kind != "staging":
                    self._discard(entry.path)
            self._retain(committed)
        except OSError as error:
            _log.warning("old checkpoints could not be deleted: %s", error)

    def _retain(self, committed: Path) -> None:
        """Keep the newest ``keep`` intact ones and the pinned one; delete what is older and has a manifest of ours."""
        ours, intact = [], []
        for step, path in published(self.folder):
            try:
                manifest = read_manifest(path)
            except ManifestError:
                continue
            ours.append((step, path))
            if path == committed or (path not in self._damaged and not size_faults(path, manifest.files)):
                intact.append(step)
        oldest = min(sorted(intact, reverse=True)[: self._keep], default=0)
        for step, path in ours:
            if step < oldest and path != committed and step != self.pinned:
                self._discard(path)

    def _discard(self, path: Path) -> None:
        """By rename to the trash, so that no half-deleted folder is ever found under a good name."""
        trash = self.folder / TRASH
        try:
            trash.mkdir(exist_ok=True)
            target = trash / f"{path.name.lstrip('.')}-{secrets.token_hex(4)}"
            os.rename(path, target)
            shutil.rmtree(target)
        except OSError as error:
            _log.warning("%s could not be deleted: %s", path, error)

    def _empty_trash(self) -> None:
        trash = self.folder / TRASH
        if trash.is_dir() and not trash.is_symlink():
            shutil.rmtree(trash, ignore_errors=True)

    def _require(self, what: str, step: int) -> None:
        try:
            self._owner.require()
        except OSError as error:
            raise SaveFailed(f"{what} at step {step}: the lease cannot be read: {error}") from error


def newest_checkpoint(folder: Path, *, before: float = math.inf) -> Found | None:
    """As ``Coordinator.newest``, of the checkpoints in ``folder`` of steps ``before`` one; only reads."""
    rejected: list[tuple[Path, str]] = []
    for step, path in published(folder):
        if step >= before:
            continue
        reasons = faults(path)
        if not reasons:
            return _found(path, tuple(rejected))
        rejected.append((path, "; ".join(reasons)))
        _log.warning("checkpoint %s refused: %s", path, rejected[-1][1])
    if rejected:
        lines = "\n  ".join(f"{path.name}: {reason}" for path, reason in rejected)
        raise UserError(f"none of the checkpoints can be used\n  {lines}", where=str(folder),
                        hint="checkpoint.resume=never starts again from the beginning")  # fmt: skip
    return None


def named_checkpoint(path: Path) -> Found:
    """The checkpoint the user names: its folder, or a run folder (its newest). Raises UserError."""
    if (path / "checkpoints").is_dir():
        found = newest_checkpoint(checkpoints_folder(path))
        if found is None:
            raise UserError("this run has no checkpoint", where=str(path), hint="name another run, or resume=auto")
        return found
    if not path.is_dir():
        raise UserError("there is no such checkpoint", where=str(path), hint="checkpoint.resume=auto takes the newest")
    reasons = faults(path)
    if reasons:
        what = f"this checkpoint cannot be used: {'; '.join(reasons)}"
        raise UserError(what, where=str(path), hint="name another, or checkpoint.resume=auto for the newest")
    return _found(path, ())


def _merged(files: Iterable[FileRecord | NotWritten]) -> list[FileRecord]:
    """The reports of all ranks as one list by path. Raises SaveFailed if one could not write, or two wrote one file."""
    records: dict[str, FileRecord] = {}
    reports = list(files)
    causes = [report.cause for report in reports if isinstance(report, NotWritten)]
    if causes:
        raise SaveFailed("; ".join(causes))
    for record in (report for report in reports if isinstance(report, FileRecord)):
        if records.setdefault(record.path, record) != record:
            raise SaveFailed(f"two ranks wrote {record.path} with different content")
    if not records:
        raise SaveFailed("no rank reported a file")
    return [records[path] for path in sorted(records)]


def _found(path: Path, rejected: tuple[tuple[Path, str], ...]) -> Found:
    manifest = read_manifest(path)
    return Found(path, manifest.step, json.loads((path / PROGRESS).read_bytes()), manifest, rejected)
