"""Paths of the recipe that a run folder keeps: absolute, so that they are understood from any folder, and looked for
beside the run where the whole place was moved.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from distft.config.recipe import Recipe
from distft.config.role_table import FURTHER, ROLES

_RUN = "run:"
_KEYS = ("path", "chat_template", "extend_vocabulary")


def anchored(tree: Any) -> Any:
    """The tree of a recipe with the paths of runs, and of files and folders that are here, absolute."""
    if isinstance(tree, list):
        return [anchored(item) for item in tree]
    if not isinstance(tree, dict):
        return tree
    return {
        key: _absolute(value) if key in _KEYS and isinstance(value, str) else anchored(value)
        for key, value in tree.items()
    }


def same_place(key: str, kept: Any, now: Any) -> bool:
    """Whether the value of a key that was kept and the one said now are equal, or one path: absolute then, and now
    perhaps relative, in a place that may have moved.
    """
    if kept == now or not (isinstance(kept, str) and isinstance(now, str) and key.rpartition(".")[2] in _KEYS):
        return bool(kept == now)
    if kept.startswith(_RUN) != now.startswith(_RUN):
        return False
    then, today = kept.removeprefix(_RUN), os.path.normpath(now.removeprefix(_RUN))
    return os.path.abspath(today) == then or (os.path.isabs(then) and then.endswith(os.sep + today))


def found_again(recipe: Recipe, run_dir: Path) -> Recipe:
    """The recipe of a run folder with the model paths that are not there any more replaced by what lies beside it."""
    found: dict[str, Any] = {
        role: model.model_copy(update={"path": _beside(model.path, run_dir)})
        for role in (*ROLES, *(f"{FURTHER}{name}" for name in recipe.models.rewards))
        if (model := recipe.models.of(role)) is not None and model.path
    }
    return recipe.model_copy(update={"models": recipe.models.having(found)})


def _absolute(path: str) -> str:
    prefix, place = (_RUN, path.removeprefix(_RUN)) if path.startswith(_RUN) else ("", path)
    return f"{prefix}{os.path.abspath(place)}" if prefix or os.path.exists(place) else path


def _beside(path: str, run_dir: Path) -> str:
    """The path itself, or its last parts below a folder above the run: as many of them as lead to a model."""
    prefix, place = (_RUN, Path(path.removeprefix(_RUN))) if path.startswith(_RUN) else ("", Path(path))
    if place.exists():
        return path
    parts = [part for part in place.parts if part != os.sep]
    fewest = 1 if prefix or place.is_absolute() else len(parts)  # it may be a name on the hub
    for number in range(len(parts), fewest - 1, -1):
        tail = Path(*parts[-number:])
        for folder in run_dir.parents:
            if (folder / tail / ("final" if prefix else "") / "config.json").is_file():
                return f"{prefix}{folder / tail}"
    return path
