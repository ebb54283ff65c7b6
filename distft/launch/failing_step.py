"""A step that fails: its batch is kept, and the message says how to run it again."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from distft.common.errors import RunFailed, UserError
from distft.controller.failed_steps import failed_step
from distft.controller.session import Session


@contextmanager
def kept_where_it_fails(session: Session, run_dir: Path) -> Iterator[None]:
    """Keeps the batch of a step that ends the run by what it was given, and says how to run it again: nothing else
    would, as no restart follows."""
    try:
        yield
    except (UserError, RunFailed) as error:
        given = isinstance(error, UserError) or error.would_repeat or error.kind == "invariant"
        step = session.step_under_way
        if not given or session.failed_steps is None or step is None:
            raise
        session.failed_steps.keep(session.data)
        add(error, again(run_dir, step))
        raise


def again(run_dir: Path, step: int) -> str:
    """How to run a step that has failed again, and where its batch is."""
    kept = failed_step(run_dir, step)
    where = f"its batch is kept in {kept}; " if kept.is_dir() else ""
    return f"{where}distft replay {shlex.quote(str(run_dir))} {step} runs it again"


def add(error: UserError | RunFailed, more: str) -> None:
    """Has the error say more, below what it says."""
    if isinstance(error, RunFailed):
        error.cause += f"\n  {more}"
    else:
        error.hint += f"\n  {more}" if error.hint else more
