"""The controller's loops over workers of this very process, one such process a rank (torchrun), or just one.

Every process runs the same loop; a call runs the verb on this rank's worker and gathers reports and columns from
all ranks. So the numbers of any layout come from the code that trains, with the Ray actors taken away.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch.distributed as dist

from distft.clients.data_group import DataGroup
from distft.clients.model_group import ModelGroup
from distft.common.addresses import found_at
from distft.common.verb import Verb
from distft.config.recipe import Recipe
from distft.config.roles import main_role, model_of, roles
from distft.controller.progress import Progress
from distft.controller.rl import train_rl
from distft.controller.session import Session
from distft.controller.supervised import train_supervised
from distft.controller.visits import total_steps
from distft.groups.dispatch import assemble, samples_of
from distft.groups.handles import Call, DataRef, Part, Result, Wait, WorkerInfo
from distft.launch.starts import model_starts, role_spec, worker_of
from distft.tracking.timing import Throughput
from distft.tracking.tracker import Tracker
from distft.workers.data_worker import DataWorker


@dataclass
class SpmdGroup:
    """All ranks of a role, this process being one of them. ``alone``: only this process's worker answers."""

    role: str
    worker: Any
    rank: int
    num_ranks: int
    alone: bool = False
    micro_batch_cost: int | None = None

    @property
    def workers(self) -> tuple[WorkerInfo, ...]:
        return ()

    def call(
        self,
        verb: Verb,
        *args: Any,
        each: Sequence[tuple[Any, ...]] | None = None,
        data: Sequence[DataRef] = (),
        samples: Sequence[Sequence[int]] | None = None,
        deadline_s: float | None = None,
        **kwargs: Any,
    ) -> Call[Result[Any]]:
        return Call(
            self, verb, IN_TURN, lambda result: result, args, kwargs, None if each is None else tuple(each),
            tuple(data), None if samples is None else tuple(tuple(one) for one in samples), deadline_s,
        )  # fmt: skip


class UnsavedSession(Session):
    """A run that leaves no checkpoints."""

    def save(self) -> None:
        pass


class InTurn:
    """One after the other, when they are started: the ranks of all groups share their processes."""

    def start(self, calls: Sequence[Call[Any]]) -> tuple[Wait, ...]:
        return tuple(partial(_same, _run(call)) for call in calls)


IN_TURN = InTurn()


def _same(result: Result[Any]) -> Result[Any]:
    return result


def _run(call: Call[Any]) -> Result[Any]:
    group: Any = call.group
    started = time.perf_counter()
    rank = 0 if group.alone else group.rank
    extra: dict[str, Any] = dict(call.kwargs)
    if call.data:
        samples = None if call.samples is None else call.samples[rank]
        extra["batch"] = assemble([[part.ref for part in source.parts] for source in call.data], samples)
    each = call.each[rank] if call.each is not None else ()
    report, batch = getattr(group.worker, call.verb.name)(*call.args, *each, **extra)
    answers: list[Any] = [(report, batch)]
    if not group.alone and group.num_ranks > 1:
        answers = [None] * group.num_ranks
        dist.all_gather_object(answers, (report, batch))
    held = [(batch, samples_of(batch)) for _, batch in answers if batch is not None]
    data = DataRef(tuple(Part(batch, samples) for batch, samples in held if samples)) if held else None
    reports = tuple(report for report, _ in answers)
    return Result(reports[0], reports, data, time.perf_counter() - started)


def build_session(
    recipe: Recipe,
    run_dir: Path,
    *,
    rank: int = 0,
    num_ranks: int = 1,
    store: tuple[str, int] | None = None,
    on_start: Callable[[Mapping[str, SpmdGroup]], None] | None = None,
) -> Session:
    """A session over workers of this process; on several ranks all roles live in the one process group of torchrun."""
    starts = model_starts(recipe, run_dir)
    data = DataWorker(recipe=recipe, starts=starts)
    if rank == 0:
        loaded = data.setup()[0]
    groups: dict[str, SpmdGroup] = {}
    first = True
    for role in roles(recipe):
        worker = found_at(worker_of(recipe, role))(spec=role_spec(recipe, role), rank=rank, world_size=num_ranks)
        if first and store is None:
            store = worker.host_store()[0]
        assert store is not None
        if first and num_ranks > 1:
            worker.join(store)
            dist.barrier()
            if rank > 0:
                loaded = data.setup()[0]
        first = False
        new_head = role in ("value", main_role(recipe)) or starts[role].init is not None
        worker.setup(store, starts[role].path, new_head)
        groups[role] = SpmdGroup(role, worker, rank, num_ranks)
    if on_start is not None:
        on_start(groups)
    out = run_dir if rank == 0 else run_dir / f"rank-{rank}"
    out.mkdir(parents=True, exist_ok=True)
    progress = Progress(total_steps=total_steps(recipe.train, loaded.num_units["train"]))
    tracker = Tracker(out, attempt=1, resume_step=None)
    return UnsavedSession(
        recipe,
        {role: ModelGroup.of(group, model_of(recipe, role)) for role, group in groups.items()},
        DataGroup(SpmdGroup("data", data, 0, 1, alone=True)),
        loaded.num_units,
        tracker,
        coordinator=SimpleNamespace(folder=run_dir / "checkpoints"),  # type: ignore[arg-type] # writes none
        progress=progress,
        throughput=Throughput(num_gpus=num_ranks),
    )


def train(session: Session) -> None:
    """The loop of the recipe's algorithm, to its last step."""
    if session.recipe.algorithm.traits.sampled:
        session.weights.sync(0)
        train_rl(session)
    else:
        train_supervised(session)
