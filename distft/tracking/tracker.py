"""One place to say what happened: the ledgers always, W&B if wanted, and the display."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from distft.common.logging import stage
from distft.tracking.alarms import Alarm, Watch, of_spike
from distft.tracking.flight import FlightLog, RankTrace
from distft.tracking.metrics import EventsLog, MetricRecord, MetricsLog, Sample, SamplesLog, Split
from distft.tracking.progress import Progress, QuietProgress
from distft.tracking.tensorboard import TensorBoardFiles
from distft.tracking.timeline import TIMELINE, Timeline
from distft.tracking.timing import Span
from distft.tracking.wandb_backend import WandbBackend, WandbOptions
from distft.tracking.watchdog import Spike, Watchdog

_log = logging.getLogger(__name__)
_SAID = {"checkpoint": "checkpoint of step {step}", "resume": "going on from step {step}"}


class Tracker:
    """What the loops report to, from attempt to attempt. A context manager that closes everything, on errors too.

    ``resume_step``: the step the attempt goes on from, None from the beginning (metrics.jsonl is cut
    accordingly). ``total_steps`` for the display. ``wandb`` None or mode "disabled": no W&B. ``tensorboard``: its
    files too.
    ``timeline_steps``: steps of an attempt in timeline.json. ``watchdog``: makes one of this run's roles; ``spikes``:
    what it found in the newest line of training.
    Raises OSError if the run folder cannot be written.
    """

    def __init__(
        self,
        run_dir: Path,
        *,
        attempt: int,
        resume_step: int | None,
        total_steps: int | None = None,
        wandb: WandbOptions | None = None,
        tensorboard: bool = False,
        progress: Progress | None = None,
        timeline_steps: int = 0,
        watchdog: Callable[[], Watchdog] = Watchdog,
    ) -> None:
        self.total_steps = total_steps
        self._new_watchdog = watchdog
        self._run_dir = run_dir
        self.progress: Progress = progress if progress is not None else QuietProgress()
        self._wants_tensorboard = tensorboard
        self._open_metrics(resume_step)
        self._events = EventsLog(run_dir, attempt)
        self._samples = SamplesLog(run_dir, attempt)
        self._flight = FlightLog(run_dir, resume_step)
        self._timeline_steps = self._steps_left = timeline_steps
        self._timeline = Timeline(run_dir) if timeline_steps else None
        self._wandb: WandbBackend | None = None
        if wandb is not None and wandb.mode != "disabled":
            self._wandb = WandbBackend(run_dir, wandb, before=0 if resume_step is None else resume_step + 1)

    @property
    def wandb_id(self) -> str | None:
        """For progress.json, so that a resumed run goes on in the same W&B run."""
        return self._wandb.run_id if self._wandb is not None else None

    def go_on(self, attempt: int, resume_step: int | None) -> None:
        """Another attempt in the same process: the ledgers as at its start; W&B and the display stay as they are.

        Raises OSError.
        """
        self._metrics.close()
        self._flight.close()
        if self._tensorboard is not None:
            self._tensorboard.close()
        self._open_metrics(resume_step)
        self._flight = FlightLog(self._run_dir, resume_step)
        self._events.attempt = self._samples.attempt = attempt
        self._steps_left = self._timeline_steps

    def _open_metrics(self, resume_step: int | None) -> None:
        """What was said of steps that are done again is forgotten."""
        self._watch, self._watchdog = Watch(), self._new_watchdog()
        self.spikes: Sequence[Spike] = ()
        self._spikes_told: set[tuple[str, str]] = set()
        self._tensorboard = TensorBoardFiles(self._run_dir) if self._wants_tensorboard else None
        self._metrics = MetricsLog(self._run_dir, resume_step, self._recall)

    def log(self, step: int, values: Mapping[str, float], split: Split = "train") -> None:
        """A line of metrics.jsonl, a row in W&B, a step or an evaluation on the display; and an alarm where the
        numbers raise one."""
        record = MetricRecord(step, split, values)
        if self._metrics.write(record) and self._tensorboard is not None:
            self._tensorboard.log(record)
        if self._wandb is not None:
            self._wandb.log(record)
        if split == "train":
            self.progress.step(step, self.total_steps, values)
            self._look_for_spikes(step, values)
        else:
            self.progress.held_out(step, values)
        for alarm in self._watch.observe(split, values, is_end=step == self.total_steps):
            self.alarm(step, alarm)

    def _look_for_spikes(self, step: int, values: Mapping[str, float]) -> None:
        """Each is an event; the first of a role's loss or gradient in an attempt an alarm, too."""
        self.spikes = self._watchdog.observe(step, values)
        for spike in self.spikes:
            if not spike.is_new:
                continue
            self.event("spike", name=spike.name, step=spike.step, role=spike.role, metric=spike.metric,
                       value=spike.value, usual=spike.usual)  # fmt: skip
            if (spike.name, spike.role) not in self._spikes_told:
                self._spikes_told.add((spike.name, spike.role))
                self.alarm(step, of_spike(spike))

    def _recall(self, line: Mapping[str, Any]) -> None:
        """A line of before a resume: what it raised was said then."""
        if self._tensorboard is not None:
            self._tensorboard.again(line)
        split: Split = "eval" if line.get("split") == "eval" else "train"
        self._watch.observe(split, line)
        if split == "train":
            found = self._watchdog.observe(line["step"], line)
            self._spikes_told.update((spike.name, spike.role) for spike in found)

    def alarm(self, step: int, alarm: Alarm) -> None:
        """An event, a line on the display, an alert of W&B."""
        self.event("alarm", name=alarm.name, step=step, said=alarm.said, do=alarm.do)
        self.progress.alarm(f"alarm at step {step}: {alarm.name}: {alarm.said}; {alarm.do}")
        if self._wandb is not None:
            self._wandb.alert(f"{alarm.name} at step {step}", f"{alarm.said}; {alarm.do}")

    def samples(self, step: int, samples: Sequence[Sample], split: Split = "train") -> None:
        """Lines of samples.jsonl and the table ``completions``."""
        self._samples.write(step, samples, split)
        if self._wandb is not None and samples:
            self._wandb.samples(step, samples, split)

    def keep(self, kind: str, path: Path) -> None:
        """A file, or a folder by where it lies, as an artifact of W&B; nothing where it is not there."""
        if self._wandb is not None and path.exists():
            self._wandb.keep(kind, path)

    def flight(self, step: int, role: str, ranks: Sequence[RankTrace]) -> None:
        """What the ranks of a role recorded of a step, for flight.jsonl."""
        self._flight.write(step, role, ranks)

    def spans(self, spans: Sequence[Span]) -> None:
        """What was done in a step, for timeline.json, which shows the first ``timeline_steps`` of an attempt."""
        if self._timeline is not None and self._steps_left > 0:
            self._steps_left -= 1
            try:
                self._timeline.write(spans)
            except OSError as error:  # nothing depends on it
                _log.warning("%s is not written further: %s", TIMELINE, error)
                self._steps_left = 0

    def event(self, event: str, **fields: Any) -> None:
        """A line of events.jsonl; a checkpoint and a resume are said on the display too."""
        self._events.write(event, **fields)
        if event in _SAID:
            self.progress.note(_SAID[event].format(**fields))

    def phase(self, name: str) -> None:
        """Say on the display, and as the driver's stage in its log, what is going on."""
        stage(name)
        self.progress.phase(name)

    def close(self, exit_status: int = 0) -> None:
        """Close the display, the files and W&B."""
        self.progress.close()
        for ledger in (self._metrics, self._events, self._samples, self._flight):
            ledger.close()
        for copy in (self._timeline, self._tensorboard):
            if copy is not None:
                copy.close()
        if self._wandb is not None:
            self._wandb.close(exit_status)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:  # fmt: skip
        self.close(0 if error is None else 1)
