"""The checkpoints of a run as they lie on the disk, for people who look. Reads only: no lease is needed."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from distft.checkpoint.layout import checkpoints_folder, published
from distft.checkpoint.manifest import Manifest, ManifestError, faults, read_manifest
from distft.common.errors import UserError
from distft.common.files import nearest_beside


@dataclass(frozen=True)
class Listed:
    """One checkpoint. ``faults``: why it cannot be used, nothing where it can. ``is_next``: a resume would take it."""

    step: int
    path: Path
    faults: tuple[str, ...]
    manifest: Manifest | None
    is_next: bool

    def as_json(self) -> dict[str, Any]:
        """All of it but the list of files, of which there are only number and bytes."""
        found: dict[str, Any] = {
            "step": self.step, "path": str(self.path), "faults": list(self.faults), "next": self.is_next
        }  # fmt: skip
        if self.manifest is not None:
            kept = asdict(self.manifest)
            del kept["files"], kept["step"]
            found |= {**kept, "num_files": len(self.manifest.files), "bytes": self.manifest.num_bytes}
        return found


def list_checkpoints(run_dir: Path, *, hashes: bool = True) -> list[Listed]:
    """Newest first. ``hashes``: every file is read and hashed; else names and sizes alone are compared.

    UserError where ``run_dir`` is no run folder.
    """
    folder = checkpoints_folder(run_dir)
    if not folder.is_dir():
        what = "has no checkpoints" if run_dir.is_dir() else "there is no such folder"
        near = None if run_dir.is_dir() else nearest_beside(run_dir)
        hint = f"did you mean {near}?" if near else "give the output_dir of a run, which has a folder checkpoints"
        raise UserError(what, where=str(run_dir), hint=hint)
    found: list[Listed] = []
    for step, path in published(folder):
        wrong = tuple(faults(path, hashes=hashes))
        is_next = not wrong and not any(one.is_next for one in found)
        found.append(Listed(step, path, wrong, _manifest(path), is_next))
    return found


def _manifest(folder: Path) -> Manifest | None:
    try:
        return read_manifest(folder)
    except ManifestError:
        return None
