"""What of this machine an evaluation reads, so that it is seen where that has changed since: models, an adapter, rows,
a chat template."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from distft.checkpoint.layout import MANIFEST, checkpoints_folder, published
from distft.common.files import sha256_file
from distft.common.sums import SUMS
from distft.config.eval_stage import MODELS

_FILES: Final = ("adapter", "data", "shots_from", "tasks_from", "chat_template")


def models_of(asked: Mapping[str, Any]) -> list[str]:
    """The models that are named in what is asked, each once."""
    return list(_named(asked, MODELS))


def states_of(asked: Mapping[str, Any]) -> dict[str, str | None]:
    """Of everything that is named in what is asked, as it is typed, a hash that another content changes; None where
    nothing of it is known here: it is on the hub, at an endpoint, or in a package."""
    return {name: _state(name.removeprefix("run:")) for name in _named(asked, (*MODELS, *_FILES))}


def _named(asked: Mapping[str, Any], keys: Iterable[str]) -> dict[str, None]:
    said = [asked.get(key) for key in keys]
    return {name: None for value in said for name in (value if isinstance(value, list | tuple) else [value]) if name}


def _state(name: str) -> str | None:
    try:
        return _state_of(Path(name).expanduser())
    except (OSError, RuntimeError):  # no path at all: a template's own text, say
        return None


def _state_of(place: Path) -> str | None:
    """Of a run its result's, else its newest checkpoint's: as it is read. The hash of what hashes its files, where
    there is such a file; else that of their names, sizes and times of change."""
    checkpoints = [folder / MANIFEST for _, folder in published(checkpoints_folder(place))]
    for hashes in (place / "final" / SUMS, place / SUMS, place / MANIFEST, *checkpoints):
        if hashes.is_file():
            return sha256_file(hashes)
    files = sorted(path for path in place.rglob("*") if path.is_file()) if place.is_dir() else [place]
    seen = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in files if path.is_file()]
    return hashlib.sha256(json.dumps(seen).encode()).hexdigest() if seen else None
