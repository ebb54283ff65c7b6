"""The composition root: recipe and cluster to a run, from the lease to the exported model.

preflight -> lease -> newest checkpoint -> Ray -> groups -> setup (-> load) -> loop -> export -> exit.json
"""

from __future__ import annotations

import logging
import math
import shutil
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from distft.checkpoint.coordinator import Coordinator, Found
from distft.checkpoint.lease import Lease, acquire
from distft.clients.data_group import DataGroup
from distft.clients.generator_group import EngineGroup, engine_setup
from distft.clients.model_group import ModelGroup
from distft.common.errors import DistftError, StoppedOnRequest
from distft.common.files import write_atomic
from distft.common.logging import configure
from distft.config.cluster import Cluster
from distft.config.engines import ENGINES
from distft.config.recipe import Recipe
from distft.config.roles import is_rl, main_role, trained_roles
from distft.controller.evaluating import after, before, read_table, said_rows
from distft.controller.progress import Progress
from distft.controller.rl import train_rl
from distft.controller.rows import prepare_rows
from distft.controller.session import Session
from distft.controller.supervised import train_supervised
from distft.controller.visits import total_steps
from distft.groups.handles import Group, together
from distft.groups.placement import Deadlines, Groups, GroupSpec, start_groups
from distft.launch.final import write_final
from distft.launch.on_ray.cluster import connect
from distft.launch.preflight import remarks
from distft.launch.prepare import Prepared, prepare
from distft.launch.resume_point import check_data, check_files, resume_point
from distft.launch.run_folder import fingerprint, next_attempt, write_recipe
from distft.launch.starts import engine_spec, model_starts, role_spec, starts_of_workers, worker_of
from distft.launch.stop_listener import stopped_by_request
from distft.launch.stop_signals import stop_on_signal
from distft.planning.plan import GroupPlan, Plan
from distft.report.run_page import REPORT, report_in_passing
from distft.tracking.environment import write_environment
from distft.tracking.exit import Ending, clear_exit, write_exit
from distft.tracking.metrics import PLAN
from distft.tracking.progress import make_progress
from distft.tracking.timing import PhaseTimer, Throughput
from distft.tracking.tracker import Tracker
from distft.tracking.wandb_backend import wandb_options
from distft.workers.reports import Loaded
from distft.workers.spec import EngineSpec, RoleSpec

DATA = "data"
DATA_WORKER = "distft.workers.data_worker:DataWorker"
ENGINE_WORKER = "distft.workers.engine_worker:EngineWorker"
PRELOADED = "distft.workers.generator_worker"


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
    with acquire(run_dir) as lease:
        attempt = next_attempt(run_dir)
        clear_exit(run_dir)
        driver_log = run_dir / "logs" / "driver.log"
        configure(driver_log, attempt=attempt, terminal=True)
        try:
            table = _attempt(recipe, prepared.cluster, prepared.plan, run_dir, lease, attempt, quiet=quiet)
        except BaseException as error:
            write_exit(run_dir, Ending.of(error), attempt)
            log.info("the run has ended: %s", Ending.of(error).kind, exc_info=True)
            if isinstance(error, Exception):  # one that wants to be gone at once is not kept for a page
                report_in_passing(run_dir)
            if not isinstance(error, DistftError):
                error.add_note(f"the traceback is in {driver_log}")
            raise
        else:
            write_exit(run_dir, Ending.of(None), attempt)
            report_in_passing(run_dir)
        finally:
            configure()
    return Outcome(recipe.name, run_dir, table)


def _attempt(
    recipe: Recipe, cluster: Cluster, plan: Plan, run_dir: Path, lease: Lease, attempt: int, *, quiet: bool
) -> dict[str, dict[str, float]]:
    coordinator = Coordinator(run_dir, recipe.checkpoint.keep, lease, fingerprint=fingerprint(recipe), attempt=attempt)
    coordinator.abandon_staging()
    found = _resume_point(recipe, coordinator, plan)
    check_files(recipe, found)
    if found is None:
        shutil.rmtree(run_dir / "init", ignore_errors=True)  # of another recipe, where this start was asked for
    write_recipe(recipe, run_dir)
    write_atomic(run_dir / PLAN, plan.model_dump_json(indent=1))
    environment = write_environment(run_dir)
    progress = Progress(total_steps=0)
    if found is not None:
        progress.restore(found.progress)
    tracker = Tracker(
        run_dir,
        attempt=attempt,
        resume_step=found.step if found else None,
        total_steps=recipe.train.steps,
        wandb=wandb_options(
            recipe, run_id=progress.wandb_id or None, commit=(environment.get("commit") or {}).get("id")
        ),
        progress=make_progress(recipe.name, quiet=quiet),
    )
    with tracker, stop_on_signal() as stop, stopped_by_request(run_dir, lease.token, stop):
        tracker.event("start", recipe=recipe.name, cluster=cluster.name)
        try:
            with ray_for([plan], run_dir, cluster), _started(recipe, plan, run_dir, attempt, tracker) as groups:
                session = _set_up(recipe, plan, run_dir, groups, tracker, coordinator, progress, found, stop)
                if stop.is_set():
                    raise StoppedOnRequest(f"stopped before step {progress.step + 1}: the same command goes on there")
                return _train(session, run_dir)
        except BaseException as error:
            ending = Ending.of(error)
            name = "failure" if ending.exit_status == 1 else "stop"
            tracker.event(name, step=progress.step, cause=ending.cause, role=ending.role, rank=ending.rank,
                          node=ending.node, stage=ending.stage, log=ending.log)  # fmt: skip
            raise


def _resume_point(recipe: Recipe, coordinator: Coordinator, plan: Plan) -> Found | None:
    """The checkpoint to go on from, decided once, before any group starts. What the user goes back on steps aside, or
    a later start would find it."""
    found = resume_point(recipe, plan, coordinator.newest)
    if recipe.checkpoint.resume != "auto":
        coordinator.rewind(found.step if found else -1)
    return found


def ray_for(plans: Sequence[Plan], run_dir: Path, cluster: Cluster | None = None) -> AbstractContextManager[Any]:
    """Ray with room for every bundle and the data worker of any of the plans; within another such block, that Ray."""
    places = [[bundle for bundles in plan.device_sets.values() for bundle in bundles] for plan in plans]
    return connect(
        num_cpus=max(
            sum(bundle.cpus for bundle in bundles) + plan.data_worker.cpus
            for plan, bundles in zip(plans, places, strict=True)
        ),
        num_gpus=max(math.ceil(sum(bundle.gpus for bundle in bundles)) for bundles in places),
        run_dir=run_dir,
        open_agents=cluster is not None and cluster.authentication == "none",
    )


@contextmanager
def _started(recipe: Recipe, plan: Plan, run_dir: Path, attempt: int, tracker: Tracker) -> Iterator[Groups]:
    tracker.phase("starting workers")
    deadlines = Deadlines(
        recipe.recovery.deadline_floor_s, recipe.recovery.deadline_factor, recipe.recovery.start_deadline_s
    )

    def ready(role: str, workers: tuple[Any, ...]) -> None:
        where = [{"rank": worker.rank, "node": worker.node, "pid": worker.pid} for worker in workers]
        tracker.event("group_ready", role=role, workers=where)

    specs = group_specs(recipe, plan, run_dir)
    with start_groups(specs, log_dir=run_dir / "logs", attempt=attempt, deadlines=deadlines, on_ready=ready) as groups:
        yield groups


def group_specs(recipe: Recipe, plan: Plan, run_dir: Path) -> list[GroupSpec]:
    """The plan in the words of the groups: one for each model group and one for the data worker."""
    data = GroupSpec(
        role=DATA,
        num_ranks=1,
        worker=DATA_WORKER,
        cpus_per_rank=plan.data_worker.cpus,
        env=plan.data_worker.env,
        spec={"recipe": recipe, "starts": model_starts(recipe, run_dir)},
    )
    return [
        data,
        *(
            GroupSpec(
                role=group.role,
                num_ranks=group.num_ranks,
                worker=ENGINE_WORKER if group.role == ENGINES else worker_of(recipe, group.role),
                device_set=group.device_set,
                beside=group.beside,
                resting=group.resting,
                cpus_per_rank=group.cpus_per_rank,
                gpus_per_rank=group.gpus_per_rank,
                env=group.env,
                spec={"spec": _spec_of(recipe, plan, group.role)},
                node_of_rank=group.node_of_rank,
                micro_batch_cost=group.micro_batch_cost,
                preloaded=_preloaded(group),
            )
            for group in plan.groups.values()
        ),
    ]


def _spec_of(recipe: Recipe, plan: Plan, group: str) -> RoleSpec | EngineSpec:
    if group != ENGINES:
        return role_spec(recipe, group)
    assert plan.generation is not None
    assert plan.generation.settings is not None
    return engine_spec(recipe, plan.generation.settings)


def _preloaded(group: GroupPlan) -> str:
    """What is imported once for all ranks of a node. Not for GPUs, whose driver does not survive a fork, and not for
    engines: vLLM starts threads."""
    return "" if group.gpus_per_rank or group.role == ENGINES else PRELOADED


def _set_up(
    recipe: Recipe,
    plan: Plan,
    run_dir: Path,
    groups: Groups,
    tracker: Tracker,
    coordinator: Coordinator,
    progress: Progress,
    found: Found | None,
    stop: threading.Event,
) -> Session:
    """Loads data and models, and the checkpoint if there is one; then the run can go."""
    tracker.phase("loading data")
    data = DataGroup(groups[DATA])
    progress.data = dict(prepare_rows(data, tracker, stop, lambda now: check_data(recipe, found, now)))
    loaded = data.setup().result()
    tracker.event("data_ready", **loaded.statistics)
    for warning in (*loaded.warnings, *remarks.on_rows(recipe, loaded.num_units)):
        log.warning(warning)
    models = {role: ModelGroup(group) for role, group in groups.items() if role not in (DATA, ENGINES)}
    tracker.phase("loading models")
    engines = _load_models(recipe, run_dir, models, groups.get(ENGINES), loaded, tracker)
    for group in plan.groups.values():
        for role in group.roles[1:]:
            models[role] = ModelGroup(groups[group.role], guest=role)
            tracker.event("guest", role=role, host=group.role)
    num_units = loaded.num_units
    progress.total_steps = total_steps(recipe.train, num_units["train"], step=progress.step, position=progress.position)
    if found is not None:
        tracker.phase(f"resuming from step {found.step}")
        together(*(models[role].load(str(found.path)) for role in trained_roles(recipe)))
        tracker.event("resume", step=found.step, path=str(found.path),
                      rejected=[f"{path.name}: {why}" for path, why in found.rejected])  # fmt: skip
    tracker.phase("checking the export")
    models[main_role(recipe)].check_export().result()
    tracker.total_steps = progress.total_steps
    tracker.event("ready", step=progress.step, total_steps=progress.total_steps)
    return Session(
        recipe,
        models,
        data,
        num_units,
        tracker,
        coordinator,
        progress,
        Throughput(plan.num_devices, plan.flops.of if plan.flops else None, plan.hardware.flops),
        PhaseTimer(devices=groups.take_busy),
        groups.take_peaks,
        engines,
        stop,
    )


def _load_models(
    recipe: Recipe,
    run_dir: Path,
    models: Mapping[str, ModelGroup],
    engines: Group | None,
    loaded: Loaded,
    tracker: Tracker,
) -> EngineGroup | None:
    """Every model on its ranks, and the engines that generate, where there are some; those are returned."""
    starts = starts_of_workers(recipe, model_starts(recipe, run_dir), loaded)
    if "value" in models and not loaded.same_value_tokenizer:
        path = starts["value"][0].path
        tracker.event("value_start", cause="the reward model has another tokenizer", path=path)
    hosted = dict(zip(models, together(*(group.host_store() for group in models.values())), strict=True))
    loading = [] if engines is None else [engine_setup(engines, starts["policy"][0].path).start()]
    calls = (
        group.setup(hosted[role], starts[role][0].path, new_head=starts[role][1]) for role, group in models.items()
    )
    ready = dict(zip(models, together(*calls), strict=True))
    if "policy" in ready:
        tracker.event("stop_tokens", tokens=ready["policy"].stop_tokens)
    for engine in loading:
        tracker.event("engines_ready", seconds=round(engine.result().seconds, 1))
    return None if engines is None else EngineGroup(engines, models["policy"].ranks, hosted["policy"])


def _train(session: Session, run_dir: Path) -> dict[str, dict[str, float]]:
    if is_rl(session.recipe):
        session.weights.sync(session.progress.step)
    if session.fresh:
        before(session)
    if is_rl(session.recipe):
        train_rl(session)
    else:
        train_supervised(session)
    table = after(session, run_dir)
    session.tracker.phase("exporting")
    write_final(session, run_dir)
    session.tracker.event("done", step=session.progress.step)
    return table
