"""Which standard tasks are asked, and whether ``lm-eval`` has them. Nothing heavy, until one is looked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from distft.common.errors import EnvironmentFallsShort, UserError, nearest


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
    """What loads the tasks. Raises EnvironmentFallsShort where the package is not installed; UserError: it has no such
    tasks, or they run what a model writes."""
    if find_spec("lm_eval") is None:
        hint = "pip install 'distft[lm-eval]', in a clone: pip install '.[lm-eval]'"
        what = "the package lm-eval, whose tasks they are, is not installed"
        raise EnvironmentFallsShort(what, where="--tasks", hint=hint)
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
        if unsafe := next((one.name for one in _within(name, manager.task_index) if one.cfg.get("unsafe_code")), None):
            what = f"{unsafe} runs the programs that a model writes, which distft does not"
            hint = "another task; distft generate writes such programs, for a sandbox of yours"
            raise UserError(what, where=f"--tasks {name}", hint=hint)
    return manager


def are_written(tasks: Tasks, manager: Any) -> bool:
    """Whether some of them are files of the ``folders``."""
    folders = [Path(folder).expanduser().resolve() for folder in tasks.folders]
    files = [one.yaml_path.resolve() for name in tasks.names for one in _within(name, manager.task_index)]
    return any(file.is_relative_to(folder) for file in files for folder in folders)


def _within(name: str, index: Mapping[str, Any]) -> Iterator[Any]:
    """The entries of a task, or of those of a group or tag. What a group writes down itself is part of its entry."""
    entry = index[name]
    if entry.cfg is None:  # a tag
        for tagged in sorted(entry.tags):
            yield from _within(tagged, index)
        return
    yield entry
    parts = entry.cfg["task"] if "group" in entry.cfg else ()
    for part in [parts] if isinstance(parts, str) else parts:
        named = part if isinstance(part, str) else part.get("task")
        if isinstance(named, str) and named in index and named != name:
            yield from _within(named, index)
