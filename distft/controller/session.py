"""What every loop holds: the recipe, the handles, the ledgers, and where the run stands."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import psutil

from distft.checkpoint.coordinator import Coordinator, SaveFailed
from distft.clients.data_group import DataGroup
from distft.clients.generator_group import AnsweringGroup, EngineGroup, GeneratorGroup
from distft.clients.model_group import ModelGroup
from distft.clients.samples import Samples
from distft.common.errors import RunFailed, StoppedOnRequest
from distft.config.recipe import Recipe
from distft.config.roles import main_role
from distft.controller.ahead import Round, kept_round
from distft.controller.failed_steps import FailedSteps
from distft.controller.mirror import Mirror
from distft.controller.progress import Progress
from distft.controller.rollback import GoBack, left_out
from distft.controller.saving import Files, Saving
from distft.controller.spikes import rollback_of
from distft.controller.stop_flag import StopFlag
from distft.controller.time_limit import TimeLimit
from distft.controller.visits import Visits
from distft.controller.weight_sync import WeightSync
from distft.experience.rollouts import Sampler
from distft.groups.handles import Call
from distft.tracking.timing import PhaseTimer, Span, Throughput, at_work
from distft.tracking.tracker import Tracker
from distft.workers.reports import StepRows

MAX_FAILED_SAVES = 3
PASSING = ".passing"
log = logging.getLogger(__name__)


@dataclass
class Session:
    """One attempt of a run. ``groups`` by role; ``data`` the data worker's; ``num_units`` units by split.

    ``engines``: who answers prompts, where it is not the policy's own ranks.
    ``take_peaks`` answers what every group took of its devices at most since it was last asked, by role and name;
    ``take_spans`` what each rank did, and when.
    ``evaluated_at``: the step of the last evaluation of this attempt; ``evaluating``: one is under way, or has failed;
    ``save_due``: this step's checkpoint is wanted, whatever ``checkpoint.every`` says; ``result_step``: the step that
    the result is of, None: the last;
    ``ahead``: the next iteration's responses, where they have been sampled already; ``saving``: the checkpoint that is
    being written while training goes on; ``mirror``: who copies the states into memory; ``failed_steps``: who keeps the
    batches of steps that fail; ``until``: the step that a replay ends with, which saves nothing; ``ends``: of the steps
    under way the position behind what they take.
    """

    recipe: Recipe
    groups: Mapping[str, ModelGroup]
    data: DataGroup
    num_units: Mapping[str, int]
    tracker: Tracker
    coordinator: Coordinator
    progress: Progress
    throughput: Throughput
    timer: PhaseTimer = field(default_factory=PhaseTimer)
    take_peaks: Callable[[], Mapping[str, Mapping[str, int]]] = dict
    take_spans: Callable[[], Sequence[Span]] = tuple
    engines: EngineGroup | None = None
    stop: StopFlag = field(default_factory=StopFlag)
    time_limit: TimeLimit = field(default_factory=TimeLimit.of)
    evaluated_at: int = -1
    evaluating: bool = False
    save_due: bool = False
    result_step: int | None = None
    ahead: Round | None = None
    saving: Saving | None = None
    mirror: Mirror | None = None
    failed_steps: FailedSteps | None = None
    until: int | None = None
    ends: dict[int, int] = field(default_factory=dict)
    _started: float = field(default_factory=time.perf_counter)

    @property
    def going_on(self) -> bool:
        """Whether there are steps left."""
        return self.progress.step < self.progress.total_steps

    @property
    def step_under_way(self) -> int | None:
        """The step that is being taken; None while something else is done, such as an evaluation."""
        return self.progress.step + 1 if self.going_on and not self.evaluating else None

    @property
    def doing(self) -> str:
        """What is being done, in words: ``step 7``, or what comes between steps and after the last."""
        if self.step_under_way is not None:
            return f"step {self.step_under_way}"
        after = f"after step {self.progress.step}" if self.progress.step else "before the first step"
        return f"the evaluation {after}" if self.evaluating else "the export"

    def steps(self) -> Iterator[int]:
        """The steps still to do, each of which ``progress`` counts when it is finished."""
        for step in self.progress.steps():
            if self.until is not None and step > self.until:
                return
            yield step

    def saw(self, step: int, samples: Samples, start: int, count: int) -> None:
        """What a step learns from, as far as it is there: ``count`` units of train from position ``start``."""
        self.ends[step] = start + count
        if self.failed_steps is not None:
            self.failed_steps.saw(self.data, samples, StepRows(step, start, count))

    @property
    def fresh(self) -> bool:
        """Whether nothing has been trained yet: when the step-0 invariants are due."""
        return self.progress.step == 0

    @cached_property
    def visits(self) -> Visits:
        """Which units of train each step takes."""
        return Visits.of(self.recipe.train, self.num_units["train"], left_out(self.progress.rollbacks))

    @property
    def generator(self) -> AnsweringGroup:
        """Who answers prompts."""
        return self.engines or GeneratorGroup(self.groups["policy"].ranks)

    @cached_property
    def weights(self) -> WeightSync:
        """The way of the policy's weights to who answers prompts."""
        policy = self.recipe.models.policy
        return WeightSync(self.generator, policy.dtype if policy else "float32")

    @cached_property
    def sampler(self) -> Sampler:
        """Prompts to scored responses, for the methods that sample for themselves."""
        return Sampler(self.recipe, self.data, self.groups, self.generator)

    def log_step(self, metrics: Mapping[str, float], lengths: Sequence[int]) -> None:
        """The line of the step just finished, over sequences of these lengths: speed, phases, peaks of memory."""
        now, ended = time.perf_counter(), time.time()
        seconds, self._started = now - self._started, now
        self.time_limit.saw_step(seconds)
        train, spans = self.num_units["train"], self.take_spans()
        peaks = {
            f"memory/{role}/{name}": size for role, sizes in self.take_peaks().items() for name, size in sizes.items()
        }
        self.tracker.log(
            self.progress.step,
            {
                **metrics,
                "num_tokens": self.progress.num_tokens,
                "optimizer_steps": self.progress.optimizer_steps,
                "epoch": self.progress.position / train,
                **self._skipped_steps(),
                "memory/driver_rss_bytes": psutil.Process().memory_info().rss,
                **peaks,
                **self.throughput.report(lengths, seconds),
                **self.timer.report(),
                **at_work(spans, ended - seconds, ended),
            },
        )
        self.tracker.spans([*self.timer.take_spans(), *spans])
        if self.failed_steps is not None:
            if any(spike.step == self.progress.step for spike in self.tracker.spikes):
                self.failed_steps.keep_though_passed(self.data, self.progress.step)
            self.failed_steps.passed(self.progress.step)
        self.ends.pop(self.progress.step, None)
        self._go_back_if_spiked()

    def _go_back_if_spiked(self) -> None:
        """Raises GoBack where that is wanted and a spike is confirmed. A replay goes on."""
        if not self.recipe.recovery.rollback or self.until is not None:
            return
        step, end = self.progress.step, self.progress.position
        for spike in self.tracker.spikes:
            if spike.confirmed:
                raise GoBack(rollback_of(self.progress, spike.step, step, end, spike.role, spike.said), spike.step)

    def _skipped_steps(self) -> dict[str, int]:
        """How many each role has left out, of those that have."""
        main, name = main_role(self.recipe), "skipped_steps"
        return {
            name if role == main else f"{role}/{name}": skipped.steps for role, skipped in self.progress.skipped.items()
        }

    def checkpoint_if_due(self) -> None:
        """A checkpoint every ``checkpoint.every`` steps, after the last one, and when a stop was asked for, which then
        ends the run. After the last step it comes before the export: what fails there loses nothing.

        It also ends by itself where the job's time has no room for one more step and its checkpoint. One that is
        written while training goes on is committed at the first end of a step at which all of it is written, at the
        latest before the next; the last one is waited for. A replay saves nothing.
        """
        if self.until is not None:
            return
        going_on, checkpoint = self.going_on, self.recipe.checkpoint
        due = not going_on or self.save_due or self.progress.step % checkpoint.every == 0
        self.save_due = False
        out_of_time = self._out_of_time(due=due) if going_on else ""
        stop = self.stop.is_set() or bool(out_of_time)
        due = due or stop
        self.settle_save(wait=due)
        if due and checkpoint.asynchronous and going_on and not stop:
            self.begin_save()
        elif due:
            self.save()
        if going_on and not stop:
            self._copy_if_due(saved=due and not checkpoint.asynchronous and not self.progress.failed_saves)
        if stop and going_on:
            why = f" ({out_of_time})" if out_of_time else ""
            how = "without a checkpoint, as saving failed" if self.progress.failed_saves else "with a checkpoint"
            raise StoppedOnRequest(
                f"stopped after step {self.progress.step} {how}: the same command goes on from there{why}"
            )

    def _out_of_time(self, *, due: bool) -> str:
        """Why the run should stop now rather than take one more step; ``due``: it would save before that step."""
        under_way = self.saving is not None
        beside = under_way or (due and self.recipe.checkpoint.asynchronous)
        return self.time_limit.too_near(settling=under_way and due, beside=beside)

    @contextmanager
    def phase(self, name: str, said: str = "") -> Iterator[None]:
        """Counts the block's time under ``name``, and says that this is what the run does."""
        with self.timer.phase(name):
            self.tracker.phase(said or name.replace("_", " "))
            yield

    @contextmanager
    def passing_folder(self) -> Iterator[Path]:
        """A folder that all nodes see, for what one group leaves to another; gone when the block ends."""
        folder = self.coordinator.folder.parent / PASSING
        shutil.rmtree(folder, ignore_errors=True)  # of a former attempt
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def save(self) -> None:
        """All groups whose models change into one checkpoint (RELIABILITY's commit protocol).

        A failed save is loud and the run goes on; after MAX_FAILED_SAVES in a row it ends.
        """
        with self._one_save(self.progress.step):
            begun = self._begin()
            begun.write(self._keep_responses(str(begun.staging)))
            self._commit(begun)

    def begin_save(self) -> None:
        """As ``save``, but training waits for copies in the ranks' host memory only; see ``settle_save``."""
        with self._one_save(self.progress.step):
            begun = self._begin()
            begun.copy(self._keep_responses(str(begun.staging)))
            self.saving = begun

    def settle_save(self, *, wait: bool) -> None:
        """Commits the checkpoint that was begun, if all of it is written; ``wait``: until it is."""
        if self.saving is None:
            return
        with self._one_save(self.saving.step):
            if wait or self.saving.ended():
                begun, self.saving = self.saving, None
                begun.finish()
                self._commit(begun)

    def _copy_if_due(self, *, saved: bool) -> None:
        """A copy of the states in memory every ``checkpoint.memory_every`` steps, but of those that are ``saved``."""
        if self.mirror is None or saved or self.progress.step % self.recipe.checkpoint.memory_every:
            return
        with self.phase("memory_copy"):
            self.mirror.copy(self.recipe, self.groups, self.progress.step, self._state(), self._keep_responses)

    @contextmanager
    def _one_save(self, step: int) -> Iterator[None]:
        with self.phase("checkpoint"):
            try:
                yield
            except SaveFailed as error:
                self._count_failed_save(error, step)

    def _begin(self) -> Saving:
        return Saving.begin(self.recipe, self.groups, self.coordinator, self.progress.step, self._state())

    def _commit(self, begun: Saving) -> None:
        path = begun.commit()
        self.progress.failed_saves = 0
        self.time_limit.saw_save(begun.seconds)
        self.tracker.event("checkpoint", step=begun.step, path=str(path))

    def _keep_responses(self, folder: str) -> list[Call[Files]]:
        """What writes the responses that were sampled ahead, where there are some."""
        if self.ahead is None:
            return []
        return [self.data.keep_responses(folder, self.ahead.made.responses)]

    def _state(self) -> dict[str, Any]:
        self.progress.wandb_id = self.tracker.wandb_id or ""
        self.progress.ahead = {} if self.ahead is None else self.ahead.place
        return self.progress.state()

    def take_ahead(self, checkpoint: str) -> None:
        """The responses that a checkpoint keeps for the next iteration, if it does."""
        if self.progress.ahead:
            self.ahead = kept_round(self.sampler, self.progress.ahead, checkpoint)

    def _count_failed_save(self, error: SaveFailed, step: int) -> None:
        self.progress.failed_saves += 1
        self.progress.take_back_best(step)
        self.coordinator.pinned = self.progress.best.step
        self.tracker.event("checkpoint_failed", step=step, cause=str(error))
        log.error("%s; the run goes on", error)
        if self.progress.failed_saves >= MAX_FAILED_SAVES:
            raise RunFailed(
                f"{MAX_FAILED_SAVES} checkpoints in a row failed; the last: {error}", kind="checkpoint"
            ) from error
