"""``RUN/tensorboard``: the numbers of metrics.jsonl once more, for TensorBoard. No torch.

A copy that is made anew at each start, of the lines that metrics.jsonl then keeps: no step is in it twice and none is
missing, wherever a run was killed, and also where it was switched on later.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from distft.common.errors import EnvironmentFallsShort
from distft.config.recipe import Recipe
from distft.tracking.metrics import MetricRecord, numbers_of

FOLDER: Final = "tensorboard"
_REQUIREMENT: Final = "tensorboard>=2.20,<3"
_FLUSH_S: Final = 10
_log = logging.getLogger(__name__)


def require_tensorboard(recipe: Recipe) -> None:
    """Raises EnvironmentFallsShort where the recipe asks for TensorBoard's files, and its package is not there."""
    if recipe.tracking.tensorboard and find_spec("tensorboard") is None:
        raise EnvironmentFallsShort(
            "the package tensorboard is not installed here", where="tracking.tensorboard",
            hint=f"pip install '{_REQUIREMENT}'; tracking.tensorboard=false goes without it",
        )  # fmt: skip


class TensorBoardFiles:
    """Event files of a run, begun anew. No method raises: what goes wrong is said once, and the run goes on without."""

    def __init__(self, run_dir: Path) -> None:
        self._writer: Any = None
        try:
            from tensorboard.compat.proto.event_pb2 import Event, SessionLog
            from tensorboard.summary.writer.event_file_writer import EventFileWriter

            shutil.rmtree(run_dir / FOLDER, ignore_errors=True)
            self._writer = EventFileWriter(str(run_dir / FOLDER), flush_secs=_FLUSH_S)
            # One that watches the folder forgets what it has seen of the files before.
            self._writer.add_event(Event(session_log=SessionLog(status=SessionLog.START)))
        except Exception as error:
            self._give_up(error)

    def again(self, line: Mapping[str, Any]) -> None:
        """A line of metrics.jsonl from before this start."""
        self._add(line["step"], line.get("split"), numbers_of(line), line.get("time"))

    def log(self, record: MetricRecord) -> None:
        """The numbers under ``train/`` or ``eval/``."""
        self._add(record.step, record.split, record.values, record.time)

    def close(self) -> None:
        """Write what is left."""
        if self._writer is not None:
            try:
                self._writer.close()
            except Exception as error:
                self._give_up(error)
            self._writer = None

    def _add(self, step: int, split: Any, values: Mapping[str, float], time: Any) -> None:
        if self._writer is None:
            return
        try:
            from tensorboard.compat.proto.event_pb2 import Event
            from tensorboard.compat.proto.summary_pb2 import Summary

            told = [Summary.Value(tag=f"{split}/{name}", simple_value=value) for name, value in values.items()]
            self._writer.add_event(Event(wall_time=time, step=step, summary=Summary(value=told)))
        except Exception as error:
            self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        _log.error("%s is not written further: %s; metrics.jsonl is complete", FOLDER, error)
        self._writer = None
