"""Which standard tasks are asked, and whether ``lm-eval`` has them. Nothing heavy, until one is looked for."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from distft.common.errors import UserError, nearest


@dataclass(frozen=True)
class Tasks:
    """``names`` of tasks, groups or tags, of the package and of the ``folders``; ``shots``: exemplars before each
    question, None: as each task says; ``chat``: questions are turns of the chat template; ``limit``: so many questions
    of each task; ``seed``: of exemplars and draws, None: lm-eval's own."""

    names: tuple[str, ...]
    folders: tuple[str, ...] = ()
    shots: int | None = None
    chat: bool = False
    limit: int | None = None
    seed: int | None = None


def require_tasks(tasks: Tasks) -> Any:
    """What loads the tasks. Raises UserError where the package is not installed, or has no such tasks."""
    if find_spec("lm_eval") is None:
        hint = "pip install 'distft[lm-eval]', in a clone: pip install '.[lm-eval]'"
        raise UserError("the package lm-eval, whose tasks they are, is not installed", where="--tasks", hint=hint)
    for folder in tasks.folders:
        if not Path(folder).expanduser().is_dir():
            raise UserError(
                "there is no such folder", where=f"--tasks-from {folder}", hint="one with tasks as YAML files"
            )
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=[str(Path(folder).expanduser()) for folder in tasks.folders] or None)
    for name in tasks.names:
        if name not in manager.all_tasks:
            close = nearest(name, manager.all_tasks)
            hint = f"did you mean {close}?" if close else "lm-eval ls tasks lists them; --tasks-from FOLDER has more"
            raise UserError(f"there is no task {name}", where="--tasks", hint=hint)
    return manager
