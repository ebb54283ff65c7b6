"""A run that goes back before a spike (``recovery.rollback``): when it does, and which of its checkpoints count then.

What ``controller.rollback`` describes, in an order that is safe: the decision is on the disk before anything is moved,
so that a run that is killed at any moment follows it.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from distft.checkpoint.coordinator import Coordinator, Found
from distft.checkpoint.layout import step_name
from distft.common.errors import RunFailed
from distft.controller.failed_steps import failed_step
from distft.controller.rollback import GoBack, Rollback, left_behind, read_rollbacks, rollbacks_of, write_rollbacks
from distft.controller.session import Session
from distft.controller.spikes import rollback_of
from distft.launch.failing_step import add, again
from distft.tracking.tracker import Tracker

KEPT = "rollbacks"  # below the run folder: the batches that were kept of steps that are left out
log = logging.getLogger(__name__)


@contextmanager
def gone_back_where_it_may(session: Session, run_dir: Path) -> Iterator[None]:
    """Ends the attempt by going back, at most ``recovery.rollback`` times in a run, where a spike is confirmed or too
    many batches in a row came out as no number. Where the run has gone back as often already, that ends it."""
    most, used = session.recipe.recovery.rollback, len(session.progress.rollbacks)
    no_more = f"recovery.rollback={most} allows no further rollback"
    try:
        yield
    except GoBack as error:
        if used < most:
            raise
        more = f"{no_more}\n  {again(run_dir, error.sign)}"
        raise RunFailed(f"{error.cause}; {more}", role=error.role, kind="spike") from error
    except RunFailed as error:
        step = session.step_under_way
        if not most or error.kind != "diverged" or step is None:
            raise
        if used >= most:
            add(error, no_more)
            raise
        if session.failed_steps is not None:
            session.failed_steps.keep(session.data)
        progress, why = session.progress, error.cause.splitlines()[0]
        skipped = progress.skipped.get(error.role)
        sign = step - (skipped.in_a_row if skipped else 0)
        raise GoBack(rollback_of(progress, sign, step, session.ends[step], error.role, why), sign) from error


class Rollbacks:
    """Those of the run in ``run_dir``: ``made``, in their order; none yet where it does not go on by itself
    (``checkpoint.resume``). Raises UserError where its record is damaged."""

    def __init__(self, run_dir: Path, *, goes_on: bool) -> None:
        self._run_dir = run_dir
        self.made = read_rollbacks(run_dir) if goes_on else ()

    def follow(self, coordinator: Coordinator) -> None:
        """At a start that goes on: checkpoints of what was left out since step aside, where the run was killed before
        they had. Raises as ``Coordinator.newest`` and ``rewind``."""
        found = coordinator.newest() if self.made else None
        if found is not None:
            first = left_behind(found.step, found.progress, self.made)
            if first is not None:
                coordinator.rewind(first - 1)

    def begin_at(self, begin: Found | None) -> None:
        """At a start from what the user names: the run leaves out what that did."""
        self._become(() if begin is None else rollbacks_of(begin.progress))

    def go_back(self, rollback: Rollback, coordinator: Coordinator, tracker: Tracker, most: int) -> None:
        """Decides it, and then has checkpoints and batches of the steps that are left out step aside. Raises RunFailed
        where it cannot be written down, LeaseLost."""
        try:
            self._become((*self.made, rollback))
        except OSError as error:
            why = f"{rollback.why}; the run cannot go back, as that cannot be written down: {error}"
            raise RunFailed(why, role=rollback.role, kind="checkpoint") from error
        number, steps = len(self.made), f"steps {rollback.first} to {rollback.last}"
        log.warning("%s: rollback %d of %d: what %s took is left out", rollback.why, number, most, steps)
        tracker.event("rollback", cause=rollback.why, role=rollback.role, number=number, step=rollback.last,
                      left_out=steps, units=rollback.end - rollback.start)  # fmt: skip
        coordinator.rewind(rollback.first - 1)
        self._keep_batches(rollback, self._run_dir / KEPT / str(number))

    def _become(self, made: tuple[Rollback, ...]) -> None:
        write_rollbacks(self._run_dir, made)
        self.made = made

    def _keep_batches(self, rollback: Rollback, folder: Path) -> None:
        """Under the same numbers other steps will be taken."""
        for step in range(rollback.first, rollback.last + 2):
            kept = failed_step(self._run_dir, step)
            if kept.is_dir():
                try:
                    folder.mkdir(parents=True, exist_ok=True)
                    os.rename(kept, folder / step_name(step))
                except OSError as error:
                    log.warning("%s stays where it is: %s", kept, error)
