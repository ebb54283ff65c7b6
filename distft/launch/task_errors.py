"""What ``lm-eval`` raises, as what it is: of the user's words, of the machine, or of the package."""

from __future__ import annotations

import logging
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, redirect_stderr
from io import StringIO
from typing import Final

from distft.common.errors import EnvironmentFallsShort, RunFailed, UserError
from distft.launch.task_names import Tasks
from distft.models.unreadable import first_line

_SCRIPTS: Final = "Dataset scripts are no longer supported"  # what datasets says of rows that a program would make
_EXEMPLARS: Final = "fewshot_context"  # the function of lm-eval that puts them before a question


@contextmanager
def in_our_words(tasks: Tasks, *, written: bool) -> Iterator[None]:
    """``written``: some task is a file of the user's. The package's bars are for terminals.

    Raises EnvironmentFallsShort: rows or packages are not here; UserError: rows that a program would make, exemplars
    that there are not, tasks of the user's that are wrong; RunFailed: tasks of the package that fail in it.
    """
    from datasets.exceptions import DatasetNotFoundError

    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    try:
        with nullcontext() if sys.stderr.isatty() else redirect_stderr(StringIO()):
            yield
    except (ConnectionError, DatasetNotFoundError, FileNotFoundError) as error:
        hint = "the same command fetches them where there is a network; --tasks-from FOLDER has tasks over files"
        raise EnvironmentFallsShort(
            f"a task's rows are not to be had: {first_line(error)}", where="--tasks", hint=hint
        ) from error
    except ImportError as error:
        hint = "install it; lm-eval's extras have most of them: pip install 'lm_eval[tasks]'"
        raise EnvironmentFallsShort(
            f"a task wants a package that is not installed: {first_line(error)}", where="--tasks", hint=hint
        ) from error
    except RuntimeError as error:
        if _SCRIPTS not in str(error):
            raise
        raise UserError(f"a task's rows are made by a program: {first_line(error)}", where="--tasks",
                        hint="another task, or --tasks-from FOLDER with one over files") from error  # fmt: skip
    except (ValueError, AssertionError) as error:
        said = first_line(error)
        if tasks.shots and any(frame.name == _EXEMPLARS for frame in traceback.extract_tb(error.__traceback__)):
            where, hint = f"--task-shots {tasks.shots}", "fewer, or leave it out"
            raise UserError(f"a task has no such exemplars: {said}", where=where, hint=hint) from error
        if written:
            hint = "mend the task's YAML file"
            raise UserError(f"lm-eval cannot ask a task: {said}", where=" ".join(_from(tasks)), hint=hint) from error
        raise RunFailed(
            f"lm-eval itself fails at --tasks {' '.join(tasks.names)}: {said}\n  leave the task out, or try another "
            "release of lm-eval", kind="evaluation",
        ) from error  # fmt: skip


def _from(tasks: Tasks) -> tuple[str, ...]:
    return tuple(f"--tasks-from {folder}" for folder in tasks.folders)
