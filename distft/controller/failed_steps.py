"""The batch of a step that fails, kept for whoever looks into it: ``RUN/failed_steps/step_00000007/``.

A step that has failed once is kept as soon as its samples are there when it is tried again, and so is the batch that is
read ahead in it: it is on the disk before whoever dies then takes it along. A step that ends the run by what it was
given, such as a rule that refuses an answer, is kept when it has failed. One that is passed is forgotten, unless an
optimizer step of it was left out because it came out as no number, or a spike of the loss or the gradient began there.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Collection
from pathlib import Path

from distft.checkpoint.layout import step_name
from distft.clients.data_group import DataGroup
from distft.clients.samples import Samples
from distft.common.errors import DistftError
from distft.groups.handles import Call
from distft.workers.reports import StepRows

FAILED_STEPS = "failed_steps"
MOST_PASSED = 16  # batches that an attempt keeps of steps that passed: such steps may come for as long as a run lasts
_LAST_S = 60.0  # for the data worker to end what it does, and write a batch
log = logging.getLogger(__name__)


def failed_step(run_dir: Path, step: int) -> Path:
    """Where the batch of a step that failed lies, if it was kept."""
    return run_dir / FAILED_STEPS / step_name(step)


class FailedSteps:
    """The batches under way, by step, and which of them are kept: those of ``suspects``, which failed before. A run
    ``forgets`` what does not fail again, a replay does not."""

    def __init__(self, run_dir: Path, suspects: Collection[int] = (), *, forgets: bool = True) -> None:
        self._run_dir, self._forgets = run_dir, forgets
        self._watched = {step + ahead for step in suspects for ahead in (0, 1)}
        self._under_way: dict[int, tuple[Samples, StepRows]] = {}
        self._though_passed: set[int] = set()

    def saw(self, data: DataGroup, samples: Samples, rows: StepRows) -> None:
        """The samples of a step as far as they are there, before anything is done with them; later ones of the same
        step, such as prompts with their responses, take their place."""
        self._under_way[rows.step] = (samples, rows)
        if rows.step in self._watched:
            self._said(rows.step, self._asked(data, samples, rows).result())

    def keep(self, data: DataGroup) -> None:
        """The batches under way, of an attempt that has failed. What cannot be kept is logged and no more."""
        for samples, rows in self._under_way.values():
            try:
                self._said(rows.step, self._asked(data, samples, rows).last(_LAST_S))
            except DistftError as error:  # the run ends with another one
                log.error("the batch of step %d was not kept: %s", rows.step, error)

    def keep_though_passed(self, data: DataGroup, step: int) -> None:
        """The batch of a step that has not failed, and that somebody should look at: it stays, of the first such steps
        of an attempt."""
        found = self._under_way.get(step)
        if found and step not in self._though_passed and len(self._though_passed) < MOST_PASSED:
            self._said(step, self._asked(data, *found).result())
        self._though_passed.add(step)

    def passed(self, step: int) -> None:
        """It has not failed, or does not any more."""
        self._under_way.pop(step, None)
        if self._forgets and step not in self._though_passed and (folder := failed_step(self._run_dir, step)).is_dir():
            shutil.rmtree(folder, ignore_errors=True)
            log.info("step %d has not failed again: its batch is not kept any longer", step)

    def _asked(self, data: DataGroup, samples: Samples, rows: StepRows) -> Call[str]:
        return data.keep_step(str(failed_step(self._run_dir, rows.step)), rows, samples.data)

    def _said(self, step: int, refused: str) -> None:
        if refused:
            log.error("the batch of step %d was not kept: %s", step, refused)
