"""From the lease on: one attempt after the other, in one Ray, until one comes to the end or none is to follow.

The first failure of a rank ends the attempt, and all groups with it. The next starts from the newest checkpoint in the
same process: Ray, and the fork servers that have imported what ranks need, live on. Where a Ray of our own has ended,
it starts in another.
"""

from __future__ import annotations

import gc
import logging
import shutil
import time
from collections.abc import Collection
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self

from distft.checkpoint.coordinator import Coordinator, Found
from distft.checkpoint.layout import checkpoints_folder, published
from distft.checkpoint.lease import Lease
from distft.common.errors import DistftError, EnvironmentFallsShort, RunFailed, StoppedOnRequest
from distft.common.files import write_atomic
from distft.common.logging import configure
from distft.config.recipe import Recipe
from distft.controller.failed_steps import FAILED_STEPS
from distft.controller.mirror import Mirror
from distft.controller.progress import Progress
from distft.controller.rollback import GoBack
from distft.controller.session import Session
from distft.controller.spikes import watchdog_of
from distft.controller.stop_flag import StopFlag
from distft.groups.handles import WorkerInfo
from distft.groups.keepers import Keepers
from distft.groups.placement import Groups, shortage
from distft.groups.worker_group import ended_servers
from distft.launch.attempt import group_specs, set_up, started, train_session
from distft.launch.failing_step import again
from distft.launch.fewer_nodes import changed_ranks, plan_for_fewer
from distft.launch.memory_copies import newest_copy, write_copy
from distft.launch.on_ray.for_plans import ray_for
from distft.launch.on_ray.losses import Losses
from distft.launch.prepare import Prepared
from distft.launch.restarts import Restarts
from distft.launch.resume_point import check_files, resume_point
from distft.launch.rollbacks import Rollbacks
from distft.launch.run_folder import fingerprint, write_recipe
from distft.launch.stop_listener import stopped_by_request
from distft.launch.stop_signals import stop_on_signal
from distft.launch.wandb_config import more_config
from distft.planning.plan import Plan
from distft.tracking.display import make_progress
from distft.tracking.environment import write_environment
from distft.tracking.exit import Ending
from distft.tracking.metrics import PLAN, RECIPE
from distft.tracking.progress import LoggedProgress
from distft.tracking.tracker import Tracker
from distft.tracking.wandb_backend import wandb_options

_FORGOTTEN_S = 240.0  # within which Ray takes a node that is gone for gone, and gives it no rank any more
log = logging.getLogger(__name__)


class Supervisor:
    """A run whose folder is ours. ``attempt``: the number of the current one, ``first`` at the start. A context manager
    around the run and what is made of it, which ends with the ledgers and their copies."""

    def __init__(self, prepared: Prepared, lease: Lease, first: int, *, quiet: bool = False) -> None:
        self.attempt = first
        self._recipe, self._cluster, self._plan = prepared.recipe, prepared.cluster, prepared.plan
        self._run_dir, self._lease, self._quiet = prepared.run_dir, lease, quiet
        self._restarts = Restarts(prepared.recipe.recovery.max_restarts)
        self._failed_steps: set[int] = set()
        self._stop = StopFlag()
        self._coordinator = self._new_coordinator()
        self._rollbacks = Rollbacks(prepared.run_dir, goes_on=prepared.recipe.checkpoint.resume == "auto")
        self._found: Found | None = None
        self._progress = Progress(total_steps=0)
        self._tracker: Tracker | None = None
        self._mirror: Mirror | None = None
        self._session: Session | None = None  # of this attempt, once it is set up

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if self._tracker is not None:
            self._tracker.close(0 if error is None else 1)

    def keep_report(self, path: Path) -> None:
        """The page about the run as an artifact of W&B."""
        if self._tracker is not None:
            self._tracker.keep("report", path)

    def run(self) -> dict[str, dict[str, float]]:
        """The table before and after. Raises what ended the last attempt."""
        recipe, run_dir = self._recipe, self._run_dir
        self._coordinator.abandon_staging()
        if recipe.checkpoint.resume == "auto":
            self._rollbacks.follow(self._coordinator)
        begin = resume_point(recipe, self._coordinator.newest)
        if recipe.checkpoint.resume != "auto":  # what the user goes back on steps aside, or a later start would find it
            self._rollbacks.begin_at(begin)
            self._coordinator.rewind(begin.step if begin else -1)
        check_files(recipe, begin)
        self._go_to(begin)
        write_recipe(recipe, run_dir)
        write_atomic(run_dir / PLAN, self._plan.model_dump_json(indent=1))
        tracker = self._tracker = self._begin_tracking()
        if recipe.checkpoint.memory_every:
            wait_s = max(recipe.recovery.deadline_floor_s, recipe.recovery.start_deadline_s)
            self._mirror = Mirror(Keepers(wait_s), tracker.event)
        with (
            stop_on_signal() as self._stop,
            stopped_by_request(run_dir, self._lease.token, self._stop),
        ):
            try:
                self._tell_start(tracker)
                with ExitStack() as ray:
                    try:
                        table = self._attempts(begin, tracker, ray)
                    except DistftError:
                        self._write_copy(tracker)
                        raise
                tracker.keep("recipe", run_dir / RECIPE)
                tracker.keep("model", run_dir / "final")
                return table
            except BaseException as error:
                self._tell_end(tracker, Ending.of(error))
                raise

    def _attempts(self, begin: Found | None, tracker: Tracker, ray: ExitStack) -> dict[str, dict[str, float]]:
        """In one Ray, which ``ray`` ends; in a new one after an attempt that ended with it."""
        lost: _Lost | None = None
        reached = ray.enter_context(ray_for([self._plan], self._run_dir, self._cluster))
        if self._mirror is not None:
            ray.callback(self._mirror.forget)
        losses = Losses(reached)
        while True:
            try:
                return self._one(lost, tracker, losses.left_out)
            except GoBack as error:
                back = error.rollback
                self._rollbacks.go_back(back, self._coordinator, tracker, self._recipe.recovery.rollback)
                begin = None if begin is not None and begin.step >= back.first else begin
                copy, lost = self._newest_copy(), None
                copy = copy if copy is not None and copy.step < back.first else None
            except RunFailed as error:
                if not reached.private and (
                    ended_servers() or (error.kind == "node" and not self._recipe.recovery.outlives_nodes)
                ):
                    raise
                copy = self._require_restart(error, losses, tracker)
                lost = _Lost(Ending.of(error), error.raised)
                log.warning("attempt %d has ended: %s", self.attempt, error)
            self._session = None
            gc.collect()  # what the failed attempt held in the object store
            if lost is not None:
                self._tell_end(tracker, lost.ending)
            self.attempt += 1
            configure(self._run_dir / "logs" / "driver.log", attempt=self.attempt, terminal=True)
            self._coordinator = self._new_coordinator()
            self._coordinator.abandon_staging()
            of_a_node = lost is not None and lost.ending.kind == "node"
            another_ray = reached.private and (of_a_node or bool(ended_servers()))
            if another_ray and self._mirror is not None:
                self._mirror.forget()
                copy = None
            self._go_to(copy or self._newest_since(begin))
            if lost is None:
                log.warning("the run goes on from %s", self._whence)
            else:
                log.warning("restart %d of %d, from %s", self._restarts.used, self._restarts.most, self._whence)
            tracker.go_on(self.attempt, self._begun if self._found else None)
            self._tell_start(tracker)
            if another_ray:
                ray.close()
                ray.enter_context(ray_for([self._plan], self._run_dir, self._cluster))
                if self._mirror is not None:
                    ray.callback(self._mirror.forget)

    def _one(self, lost: _Lost | None, tracker: Tracker, left_out: Collection[str]) -> dict[str, dict[str, float]]:
        """One attempt, after the one that was lost, on nodes that are not ``left_out``."""
        recipe, plan, run_dir, progress = self._recipe, self._plan, self._run_dir, self._progress
        self._session = None
        with started(recipe, plan, run_dir, self.attempt, tracker, left_out) as groups:
            if self._mirror is not None:
                self._mirror.begin(recipe, groups, self.attempt, self._found)
            session = self._session = set_up(
                recipe, plan, run_dir, groups, tracker, self._coordinator, progress, self._found, self._stop,
                self._failed_steps,
            )  # fmt: skip
            session.mirror = self._mirror
            self._let_succeed(groups, session, tracker)
            if lost is not None:
                tracker.event("restart", cause=lost.ending.cause, role=lost.ending.role, rank=lost.ending.rank,
                              node=lost.ending.node, from_step=self._begun, from_memory=self._in_memory,
                              seconds=time.monotonic() - lost.since, number=self._restarts.used)  # fmt: skip
            if self._stop.is_set():
                raise StoppedOnRequest(f"stopped before step {progress.step + 1}: the same command goes on there")
            return train_session(session, run_dir)

    def _let_succeed(self, groups: Groups, session: Session, tracker: Tracker) -> None:
        """From now on another worker takes the place of one that dies, in the groups in which that goes."""

        def may(failure: RunFailed) -> bool:
            return self._restarts.may_take_its_place(failure, at=session.doing, finished=session.progress.step)

        def told(failure: RunFailed, worker: WorkerInfo, seconds: float) -> None:
            tracker.event("replaced", cause=failure.cause, role=failure.role, rank=failure.rank, node=failure.node,
                          pid=worker.pid, stage=failure.stage, log=failure.log, at=session.doing,
                          seconds=seconds)  # fmt: skip
            log.warning("%s rank %d on %s goes on after %.1f s", failure.role, worker.rank, worker.node, seconds)

        groups.let_succeed(may, told)

    @property
    def _begun(self) -> int:
        """The step that this attempt goes on from."""
        return self._found.step if self._found else 0

    @property
    def _whence(self) -> str:
        if self._found is None:
            return "the beginning: no checkpoint is there yet"
        return f"the {'copy in memory' if self._in_memory else 'checkpoint'} of step {self._begun}"

    @property
    def _in_memory(self) -> bool:
        return self._found is not None and self._found.in_memory

    def _require_restart(self, error: RunFailed, losses: Losses, tracker: Tracker) -> Found | None:
        """The copy in memory that the next attempt begins with, if it does with one. Raises what ended this one where
        no other is to follow: nobody waits for one who asked the run to stop, and for nodes that are lost only as long
        as ``recovery.wait_for_nodes`` says."""
        copy = self._newest_copy()
        saved = any(step > self._begun for step, _ in published(checkpoints_folder(self._run_dir)))
        saved = saved or (copy is not None and copy.step > self._begun)
        why_not: str | None = ""
        lost = False
        if not self._stop.is_set():
            session, stepped = self._session, self._progress.step > self._begun
            step, at = (session.step_under_way, session.doing) if session else (None, "the start")
            lost = self._restarts.may_follow(error, stepped=stepped) and losses.look()
            why_not = self._restarts.refused(error, at=at, stepped=stepped, saved=saved, node_lost=lost)
            if why_not is None:
                self._failed_steps.update(() if step is None else (step,))
                why_not = self._wait_for_nodes(losses, tracker) if lost else None
            elif why_not and step is not None:
                why_not += f"\n  {again(self._run_dir, step)}"
        if why_not == "":
            raise error
        if why_not is not None:
            raise error.because(f"{error.cause}; {why_not}") from error
        return self._newest_copy() if lost else copy

    def _newest_copy(self) -> Found | None:
        return newest_copy(self._mirror, self._recipe, self._run_dir)

    def _write_copy(self, tracker: Tracker) -> None:
        write_copy(self._mirror, self._recipe, self._run_dir, self._coordinator, tracker)

    def _wait_for_nodes(self, losses: Losses, tracker: Tracker) -> str | None:
        """None once there is room for another attempt, else why there is none. Raises StoppedOnRequest where the run is
        asked to stop meanwhile, and where that lasts too long and there is a checkpoint to go on from."""
        recipe, names = self._recipe, ", ".join(losses.lost)
        seconds = recipe.recovery.wait_for_nodes
        if not seconds and not recipe.recovery.elastic:
            return f"{names} does not answer any more, so that there is no restart"
        tracker.phase(f"waiting for {names}, or another node")
        tracker.event("nodes_lost", nodes=losses.lost, left_out=sorted(losses.left_out), waits_s=seconds)
        log.warning("%s does not answer any more: another node is waited for up to %g s", names, seconds)
        missing = self._wait_for_room(losses, seconds)
        if missing and recipe.recovery.elastic and not self._stop.is_set():
            missing = self._go_on_with_fewer(losses, tracker, missing)
        if not missing:
            return None
        self._write_copy(tracker)
        there = published(checkpoints_folder(self._run_dir))
        goes_on = f"from the checkpoint of step {there[0][0]}" if there else "from the beginning"
        if self._stop.is_set():
            raise StoppedOnRequest(f"stopped while {names} was waited for: the same command goes on {goes_on}")
        why = f"{names} does not answer any more, and within {seconds:g} s (recovery.wait_for_nodes) {missing}"
        if not there:
            return why
        raise StoppedOnRequest(f"{why}: the same command goes on {goes_on}")

    def _go_on_with_fewer(self, losses: Losses, tracker: Tracker, missing: str) -> str:
        """Another plan, for the nodes that are left; "" once there is room for it, else what is missing still."""
        recipe, former, run_dir = self._recipe, self._plan, self._run_dir

        def lacking(candidate: Recipe, plan: Plan) -> str:
            return shortage(group_specs(candidate, plan, run_dir), losses.left_out)

        try:
            found = plan_for_fewer(recipe, self._cluster, losses.machine(self._cluster), former.hardware.nodes, lacking)
        except EnvironmentFallsShort as error:
            found = error.what
        if isinstance(found, str):
            return f"{missing}; nor is there a plan for fewer nodes (recovery.elastic): {found}"
        changed = changed_ranks(former, found.plan)
        self._recipe, self._plan = found.recipe, found.plan
        write_atomic(run_dir / PLAN, found.plan.model_dump_json(indent=1))
        tracker.event("replanned", nodes=f"{former.hardware.nodes} -> {found.nodes}", ranks=changed)
        ranks = ", ".join(f"{role} {how}" for role, how in changed.items()) or "as many ranks"
        log.warning("the run goes on with %d of %d nodes: %s", found.nodes, former.hardware.nodes, ranks)
        return self._wait_for_room(losses, _FORGOTTEN_S)

    def _wait_for_room(self, losses: Losses, seconds: float) -> str:
        """What the plan lacks after so many seconds, or when the run is asked to stop; "" once there is room."""
        return losses.wait(
            group_specs(self._recipe, self._plan, self._run_dir), seconds, self._stop.is_set,
            open_agents=self._cluster.authentication == "none", gpu_memory=self._plan.hardware.gpu_memory,
        )  # fmt: skip

    def _newest_since(self, begin: Found | None) -> Found | None:
        """The newest checkpoint of this run; before it has one, where it was told to begin."""
        newest = self._coordinator.newest()
        if newest is not None and (
            self._recipe.checkpoint.resume == "auto" or begin is None or newest.step > begin.step
        ):
            return newest
        return begin

    def _go_to(self, found: Found | None) -> None:
        """Where the attempt begins."""
        self._found, self._progress = found, Progress(total_steps=0)
        if found is not None:
            self._progress.restore(found.progress)
        self._progress.rollbacks = self._rollbacks.made
        if found is None:
            for former in ("init", FAILED_STEPS):  # of another recipe, or half written
                shutil.rmtree(self._run_dir / former, ignore_errors=True)

    def _new_coordinator(self) -> Coordinator:
        recipe = self._recipe
        return Coordinator(self._run_dir, recipe.checkpoint.keep, self._lease,
                           fingerprint=fingerprint(recipe), attempt=self.attempt)  # fmt: skip

    def _begin_tracking(self) -> Tracker:
        recipe, environment = self._recipe, write_environment(self._run_dir)
        shown = LoggedProgress(make_progress(recipe.name, quiet=self._quiet))
        shown.note(f"run folder {self._run_dir}")
        commit = (environment.get("commit") or {}).get("id")
        return Tracker(
            self._run_dir,
            attempt=self.attempt,
            resume_step=self._begun if self._found else None,
            total_steps=recipe.train.steps,
            wandb=wandb_options(
                recipe,
                run_id=self._progress.wandb_id or None,
                commit=commit,
                branch=environment.get("branch"),
                more_config=more_config(recipe, self._plan),
            ),
            tensorboard=recipe.tracking.tensorboard,
            progress=shown,
            timeline_steps=recipe.tracking.timeline_steps,
            watchdog=partial(watchdog_of, recipe),
        )

    def _tell_start(self, tracker: Tracker) -> None:
        tracker.event("start", recipe=self._recipe.name, cluster=self._cluster.name)

    def _tell_end(self, tracker: Tracker, ending: Ending) -> None:
        name = "failure" if ending.exit_status == 1 else "stop"
        tracker.event(name, step=self._progress.step, cause=ending.cause, exit_status=ending.exit_status,
                      role=ending.role, rank=ending.rank, node=ending.node, stage=ending.stage,
                      log=ending.log)  # fmt: skip


@dataclass(frozen=True)
class _Lost:
    """The attempt that a restart follows: how it ended, and since when, by the monotonic clock."""

    ending: Ending
    since: float
