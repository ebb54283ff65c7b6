"""The composition root: recipe and cluster to a run, from the lease to the exported model.

preflight -> lease -> newest checkpoint -> Ray (``supervise``) -> groups -> setup (-> load) -> loop -> export
(``attempt``; where one fails, the next from the newest checkpoint) -> exit.json
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from distft.checkpoint.layout import checkpoints_folder, published
from distft.checkpoint.lease import Lease, acquire
from distft.common.errors import DistftError, RunFailed
from distft.common.logging import configure
from distft.config.recipe import Recipe
from distft.controller.evaluating import read_table, said_rows
from distft.launch.prepare import Prepared, prepare
from distft.launch.run_folder import next_attempt
from distft.launch.supervise import Supervisor
from distft.report.run_page import REPORT, report_in_passing
from distft.tracking.exit import Ending, clear_exit, write_exit

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outcome:
    """How a run ended well: held-out metrics before and after, and of which rows; ``finished_before``: nothing was left
    to do."""

    name: str
    run_dir: Path
    table: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    finished_before: bool = False

    @property
    def judged_on(self) -> str:
        """How many of how many held-out rows the table is about; empty without one."""
        return said_rows(self.run_dir)

    @property
    def final(self) -> Path:
        """The folder of the trained model."""
        return self.run_dir / "final"

    @property
    def report(self) -> Path:
        """The page about the run; there unless it could not be written."""
        return self.run_dir / REPORT

    def summary(self) -> dict[str, Any]:
        """The outcome for scripts."""
        return {
            "name": self.name,
            "run_dir": str(self.run_dir),
            "model": str(self.final),
            "finished_before": self.finished_before,
            "before_after": {metric: dict(values) for metric, values in self.table.items()},
        }


def train(recipe: Recipe, cluster_name: str, *, quiet: bool = False) -> Outcome:
    """Prepares a recipe and runs it; see ``prepare`` and ``run``."""
    return run(prepare(recipe, cluster_name), quiet=quiet)


def run(prepared: Prepared, *, quiet: bool = False) -> Outcome:
    """Runs a recipe here, from wherever its run folder stands, to its end.

    Raises UserError, EnvironmentFallsShort, RunFailed or StoppedOnRequest; whatever ends the run after its folder
    is ours also stands in ``RUN/exit.json``, and the traceback of a defect in ``RUN/logs/driver.log``.
    """
    recipe, run_dir = prepared.recipe, prepared.run_dir
    if prepared.finished:
        return Outcome(recipe.name, run_dir, read_table(run_dir), finished_before=True)
    with (
        acquire(run_dir) as lease,
        contextlib.ExitStack() as logs,
        Supervisor(prepared, lease, next_attempt(run_dir), quiet=quiet) as supervisor,
    ):
        clear_exit(run_dir)
        driver_log = run_dir / "logs" / "driver.log"
        configure(driver_log, attempt=supervisor.attempt, terminal=True)
        logs.callback(configure)
        try:
            table = supervisor.run()
        except BaseException as error:
            log.info("the run has ended: %s", Ending.of(error).kind, exc_info=True)
            if _still_ours(lease):
                write_exit(run_dir, Ending.of(error), supervisor.attempt)
                if isinstance(error, Exception):  # one that wants to be gone at once is not kept for a page
                    report_in_passing(run_dir)
                    supervisor.keep_report(run_dir / REPORT)
            if isinstance(error, RunFailed):
                error.hint = _going_on(run_dir, error)
            if not isinstance(error, DistftError):
                error.add_note(f"the traceback is in {driver_log}")
            raise
        write_exit(run_dir, Ending.of(None), supervisor.attempt)
        report_in_passing(run_dir)
        supervisor.keep_report(run_dir / REPORT)
    return Outcome(recipe.name, run_dir, table)


def _going_on(run_dir: Path, error: RunFailed) -> str:
    saved = published(checkpoints_folder(run_dir))
    when = "once that is mended, " if error.would_repeat else ""
    where = f"goes on from the checkpoint of step {saved[0][0]}" if saved else "begins anew: there is no checkpoint yet"
    return f"{when}the same command {where}"


def _still_ours(lease: Lease) -> bool:
    """Not where another process has taken the folder over, nor where none of that name is left: nothing is written
    there any more."""
    with contextlib.suppress(OSError):
        return lease.still_mine()
    return False
