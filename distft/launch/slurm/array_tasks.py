"""The tasks of an array job: their numbers, and what each one's overrides are. Pure: the launcher on the node works
out the same as the login node that has checked it."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence

from distft.common.errors import UserError

TASK = "{task}"  # in an override of an array job: the task's number
_ARRAY = re.compile(r"\d+(-\d+(:\d+)?)?(,\d+(-\d+(:\d+)?)?)*(%\d+)?")
_OPENING, _CLOSING = "[{", "]}"


def tasks(array: str) -> list[int]:
    """The task numbers of an array. Raises UserError for what sbatch would not take."""
    if not _ARRAY.fullmatch(array):
        raise UserError("is no array of tasks", where=f"--array {array}", hint="0-3, or 1,5,7, or 0-9%2")
    found: list[int] = []
    for part in array.partition("%")[0].split(","):
        span, _, step = part.partition(":")
        low, _, high = span.partition("-")
        found += range(int(low), int(high or low) + 1, max(1, int(step or 1)))
    if not found:
        raise UserError("has no task", where=f"--array {array}", hint="0-3: from the smaller to the larger number")
    return found


def combinations(sweep: Sequence[str]) -> list[tuple[str, ...]]:
    """The overrides of every task of a sweep over ``key=a,b,c``: of several keys all combinations, the last one's
    values change fastest. Raises UserError."""
    swept = [_values(text) for text in sweep]
    keys = [key for key, _ in swept]
    for key in keys:
        if keys.count(key) > 1:
            raise UserError(f"{key} is swept twice", where=f"--sweep {key}", hint="all values in one: --sweep key=a,b")
    choices = [[f"{key}={value}" for value in values] for key, values in swept]
    return list(itertools.product(*choices)) if choices else []


def array_of(sweep: Sequence[str], array: str | None) -> str | None:
    """The array as sbatch takes it: a sweep's has a task for every combination, or those of them that are asked for.

    Raises UserError.
    """
    count = len(combinations(sweep))
    if not sweep:
        return array
    if array is None:
        return f"0-{count - 1}"
    if max(tasks(array)) >= count:
        raise UserError(f"the sweep has the tasks 0-{count - 1}", where=f"--array {array}",
                        hint="without --array all of them; --array 1 the second only")  # fmt: skip
    return array


def of_task(overrides: Sequence[str], sweep: Sequence[str], task: int) -> list[str]:
    """The overrides as this task of the array has them. Raises UserError."""
    values = combinations(sweep)
    if values and task >= len(values):
        raise UserError(f"there is no task {task}", where="--sweep", hint=f"its tasks are 0-{len(values) - 1}")
    return [*(text.replace(TASK, str(task)) for text in overrides), *(values[task] if values else ())]


def of_first(overrides: Sequence[str], sweep: Sequence[str], array: str | None) -> list[str]:
    """The overrides by which a submission can be checked: those of the array's first task; of a job without an array
    as they are. Raises UserError."""
    array = array_of(sweep, array)
    if array is None:
        refuse_task(overrides)
        return list(overrides)
    refuse_swept_twice(overrides, sweep)
    return of_task(overrides, sweep, tasks(array)[0])


def refuse_task(overrides: Sequence[str], sweep: Sequence[str] = ()) -> None:
    """Raises UserError for a task's number, or a sweep, where there are no tasks."""
    if sweep:
        raise UserError("only a job of an array can sweep", where=f"--sweep {sweep[0]}", hint="sbatch --array=0-3 ...")
    for text in overrides:
        if TASK in text:
            raise UserError(f"only a job of an array has a {TASK}", where=text,
                            hint="--array 0-3 makes four tasks, --sweep key=a,b one for each value")  # fmt: skip


def refuse_swept_twice(overrides: Sequence[str], sweep: Sequence[str]) -> None:
    """Raises UserError for a key that is swept and given, and for the run folder, which every task has by itself."""
    given = {text.partition("=")[0] for text in overrides}
    for text in sweep:
        key = text.partition("=")[0]
        if key in given:
            raise UserError(f"{key} is swept, and given besides", where=f"--sweep {text}", hint=f"remove {key}=...")
        if key == "output_dir":
            raise UserError("every task has a run folder of its own", where=f"--sweep {text}",
                            hint=f"output_dir=runs/NAME-{TASK}")  # fmt: skip


def _values(text: str) -> tuple[str, list[str]]:
    """``key=a,b,[c,d]`` as the key and the values: commas within brackets or quotes part nothing."""
    key, found, rest = text.partition("=")
    values, depth, quote = [""], 0, ""
    for character in rest:
        if character == "," and not depth and not quote:
            values.append("")
            continue
        values[-1] += character
        if quote:
            quote = "" if character == quote else quote
        elif character in "'\"":
            quote = character
        else:
            depth += (character in _OPENING) - (character in _CLOSING)
    if not found or not key or not all(value.strip() for value in values):
        raise UserError("is no sweep", where=f"--sweep {text}", hint="--sweep optimizer.learning_rate=1e-6,2e-6")
    return key, [value.strip() for value in values]
