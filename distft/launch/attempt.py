"""One attempt at a run: groups -> setup (-> load) -> loop -> export. What is done when one fails: ``supervise``."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from distft.checkpoint.coordinator import Coordinator, Found
from distft.clients.data_group import DataGroup
from distft.clients.generator_group import EngineGroup, engine_setup
from distft.clients.model_group import ModelGroup
from distft.config.engines import ENGINES
from distft.config.recipe import Recipe
from distft.config.roles import is_rl, kept_roles, main_role, model_of, over_policys_base
from distft.controller.evaluating import after, before
from distft.controller.failed_steps import FailedSteps
from distft.controller.kept_reference import keep_reference
from distft.controller.progress import Progress
from distft.controller.rl import train_rl
from distft.controller.rollback import left_out
from distft.controller.rows import prepare_rows
from distft.controller.session import Session
from distft.controller.stop_flag import StopFlag
from distft.controller.supervised import train_supervised
from distft.controller.visits import Visits, total_steps
from distft.groups.handles import Group, together
from distft.groups.placement import Deadlines, Groups, GroupSpec, start_groups
from distft.launch.failing_step import kept_where_it_fails
from distft.launch.final import write_final
from distft.launch.preflight import remarks
from distft.launch.resume_point import changed_layouts, check_data
from distft.launch.rollbacks import gone_back_where_it_may
from distft.launch.starts import engine_spec, model_starts, role_spec, starts_of_workers, worker_of
from distft.planning.plan import GroupPlan, Plan
from distft.tracking.data_alarms import data_alarms
from distft.tracking.timing import PhaseTimer, Throughput
from distft.tracking.tracker import Tracker
from distft.workers.reports import Loaded
from distft.workers.spec import EngineSpec, RoleSpec

DATA = "data"
DATA_WORKER = "distft.workers.data_worker:DataWorker"
ENGINE_WORKER = "distft.workers.engine_worker:EngineWorker"
PRELOADED = "distft.workers.generator_worker"

log = logging.getLogger(__name__)


@contextmanager
def started(
    recipe: Recipe, plan: Plan, run_dir: Path, attempt: int, tracker: Tracker, left_out: Collection[str] = ()
) -> Iterator[Groups]:
    """The groups of the attempt with this number, on nodes that are not ``left_out``; all gone after the block, at once
    where it failed."""
    tracker.phase("starting workers")
    deadlines = Deadlines(
        recipe.recovery.deadline_floor_s, recipe.recovery.deadline_factor, recipe.recovery.start_deadline_s
    )

    def ready(role: str, workers: tuple[Any, ...]) -> None:
        where = [{"rank": worker.rank, "node": worker.node, "pid": worker.pid} for worker in workers]
        tracker.event("group_ready", role=role, workers=where)

    specs = group_specs(recipe, plan, run_dir)
    with start_groups(
        specs, log_dir=run_dir / "logs", attempt=attempt, deadlines=deadlines, on_ready=ready, left_out=left_out
    ) as groups:
        tracker.progress.watch(groups.states)
        yield groups


def group_specs(recipe: Recipe, plan: Plan, run_dir: Path) -> list[GroupSpec]:
    """The plan in the words of the groups: one for each model group, one for each role that lives in another's with a
    model of its own, and one for the data worker."""
    data = GroupSpec(
        role=DATA,
        num_ranks=1,
        worker=DATA_WORKER,
        cpus_per_rank=plan.data_worker.cpus,
        env=plan.data_worker.env,
        spec={"recipe": recipe, "starts": model_starts(recipe, run_dir)},
        replaceable=True,
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
                replaceable=group.role == ENGINES,
            )
            for group in plan.groups.values()
        ),
        *(
            GroupSpec(
                role=role,
                num_ranks=host.num_ranks,
                worker=worker_of(recipe, role),
                device_set=host.device_set,
                spec={"spec": role_spec(recipe, role)},
                micro_batch_cost=host.micro_batch_cost,
                lives_with=host.role,
            )
            for role in over_policys_base(recipe)
            for host in [plan.group_of(role)]
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


def set_up(
    recipe: Recipe,
    plan: Plan,
    run_dir: Path,
    groups: Groups,
    tracker: Tracker,
    coordinator: Coordinator,
    progress: Progress,
    found: Found | None,
    stop: StopFlag,
    suspects: Collection[int] = (),
) -> Session:
    """Loads data and models, and the checkpoint if there is one; then the run can go. The batches of the steps in
    ``suspects`` are kept before they are tried."""
    tracker.phase("loading data")
    data = DataGroup(groups[DATA])
    progress.data = dict(prepare_rows(data, tracker, stop, lambda now: check_data(recipe, found, now)))
    loaded = data.setup().result()
    tracker.event("data_ready", **loaded.statistics)
    there = ", ".join(f"{number:,} {split}" for split, number in loaded.num_units.items() if number)
    tracker.progress.note(f"{recipe.algorithm.traits.unit.name}: {there}")
    if found is None:
        stay = recipe.data.on_leak == "warn"
        for alarm in data_alarms(loaded.leaked, loaded.alike, loaded.drifts, stay=stay):
            tracker.alarm(0, alarm)
    for warning in (*loaded.warnings, *remarks.on_rows(recipe, loaded.num_units)):
        log.warning(warning)
    models = {
        role: ModelGroup.of(group, model_of(recipe, role))
        for role, group in groups.items()
        if role not in (DATA, ENGINES)
    }
    tracker.phase("loading models")
    engines = _load_models(recipe, run_dir, models, groups.get(ENGINES), loaded, tracker)
    for group in plan.groups.values():
        for role in set(group.roles[1:]).difference(groups):
            models[role] = replace(models[group.role], guest=role)
            tracker.event("guest", role=role, host=group.role)
    num_units, passed_over = loaded.num_units, left_out(progress.rollbacks)
    progress.ask_for(total_steps(recipe.train, num_units["train"], step=progress.step, position=progress.position,
                                 left_out=passed_over))  # fmt: skip
    coordinator.pinned = progress.best.step
    if recipe.algorithm.caches_reference():  # the models are as they start: no checkpoint has been loaded
        visits, left = Visits.of(recipe.train, num_units["train"], passed_over), progress.total_steps - progress.step
        until = visits.position_after(left, progress.position)
        keep_reference(recipe, models["policy"], data, tracker, stop, until)
    if found is not None:
        tracker.phase("loading the checkpoint")
        together(*(models[role].load(str(found.path)) for role in kept_roles(recipe)))
        changed = changed_layouts(recipe, plan, found)
        for role, how in changed.items():
            log.warning("%s goes on in another layout: %s", role, how)
        tracker.event("resume", step=found.step, path=str(found.path), changed=changed,
                      rejected=[f"{path.name}: {why}" for path, why in found.rejected])  # fmt: skip
    tracker.phase("checking the export")
    models[main_role(recipe)].check_export().result()
    tracker.total_steps = progress.total_steps
    tracker.event("ready", step=progress.step, total_steps=progress.total_steps)
    session = Session(
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
        groups.take_spans,
        engines,
        stop,
        failed_steps=FailedSteps(run_dir, suspects),
    )
    if found is not None:
        session.take_ahead(str(found.path))
    return session


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
    lent = over_policys_base(recipe)
    hosts = {role: group for role, group in models.items() if role not in lent}
    hosted = dict(zip(hosts, together(*(group.host_store() for group in hosts.values())), strict=True))
    loading = [] if engines is None else [engine_setup(engines, starts["policy"][0].path).start()]
    calls = (
        group.setup(hosted["policy" if role in lent else role], starts[role][0].path, new_head=starts[role][1])
        for role, group in models.items()
    )
    ready = dict(zip(models, together(*calls), strict=True))
    if "policy" in ready:
        tracker.event("stop_tokens", tokens=ready["policy"].stop_tokens)
    for engine in loading:
        tracker.event("engines_ready", seconds=round(engine.result().seconds, 1))
    return None if engines is None else EngineGroup(engines, models["policy"].ranks, hosted["policy"])


def train_steps(session: Session) -> None:
    """The loop, from wherever the session stands to where it ends."""
    if is_rl(session.recipe):
        train_rl(session)
    else:
        train_supervised(session)


def train_session(session: Session, run_dir: Path) -> dict[str, dict[str, float]]:
    """The loop, from wherever the session stands, to the exported model; its table before and after."""
    if is_rl(session.recipe):
        session.weights.sync(session.progress.step)
    if session.fresh:
        before(session)
    with kept_where_it_fails(session, run_dir), gone_back_where_it_may(session, run_dir):
        train_steps(session)
    table = after(session, run_dir)
    session.tracker.phase("exporting")
    write_final(session, run_dir)
    session.tracker.event("done", step=session.progress.step)
    return table
