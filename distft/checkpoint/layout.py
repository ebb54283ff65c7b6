"""Names and places of checkpoints, known to the driver and to every worker.

::

    RUN/checkpoints/step_00000050/                          published: only ever by a rename
        manifest.json  progress.json  policy/...  value/...
    RUN/checkpoints/.staging-step_00000050-<attempt>-<token>/   being written
    RUN/checkpoints/.replaced-step_00000050-<token>/        stepped aside for a new commit of its step
    RUN/checkpoints/.superseded-step_00000050-<token>/      of a trajectory the user went back on
    RUN/checkpoints/.trash/step_00000050-<token>/           being deleted
"""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass
from pathlib import Path

MANIFEST = "manifest.json"
PROGRESS = "progress.json"
TRASH = ".trash"

_STEP = re.compile(r"step_(\d{8,})")
_ASIDE = re.compile(r"\.(staging|replaced|superseded)-step_(\d{8,})-[0-9a-z-]+")


@dataclass(frozen=True)
class Aside:
    """A folder of ours that is not a published checkpoint: ``kind`` staging, replaced or superseded."""

    path: Path
    kind: str
    step: int


def checkpoints_folder(run_dir: Path) -> Path:
    """Where the checkpoints of a run lie."""
    return run_dir / "checkpoints"


def step_name(step: int) -> str:
    """``step_00000050``. Raises ValueError for a negative step."""
    if step < 0:
        raise ValueError(f"step {step} is negative")
    return f"step_{step:08d}"


def step_of(name: str) -> int | None:
    """The step in the name of a published checkpoint's folder; None for any other name."""
    found = _STEP.fullmatch(name)
    if found is None or step_name(int(found[1])) != name:
        return None
    return int(found[1])


def published(folder: Path) -> list[tuple[int, Path]]:
    """Step and folder of everything named like a checkpoint, newest first. Links are not ours."""
    if not folder.is_dir():
        return []
    steps = [(step_of(path.name), path) for path in folder.iterdir() if path.is_dir() and not path.is_symlink()]
    return sorted(((step, path) for step, path in steps if step is not None), reverse=True)


def aside(folder: Path) -> list[Aside]:
    """The staging, replaced and superseded folders, by name."""
    if not folder.is_dir():
        return []
    found = []
    for path in sorted(folder.iterdir()):
        match = _ASIDE.fullmatch(path.name)
        if match and path.is_dir() and not path.is_symlink():
            found.append(Aside(path, match[1], int(match[2])))
    return found


def staging_name(step: int, attempt: int) -> str:
    """A new staging folder's name: no other attempt or owner can have the same."""
    return f".staging-{step_name(step)}-{attempt}-{secrets.token_hex(4)}"


def aside_name(kind: str, step: int) -> str:
    """A new name for a checkpoint that steps aside: ``kind`` is replaced or superseded."""
    return f".{kind}-{step_name(step)}-{secrets.token_hex(4)}"
