"""The plan: recipe x cluster to which rank of which role sits where, with what, whether it fits and how long it takes.

    recipe ──► arrangements ──► spans of seats ──► groups (ranks, threads, environment)
    cluster ─► hardware ─┘                  │
    config.json ─► sizes ─► memory items ───┼─► loads per device and node ─► fits? else remedies
                       └──► costs ──────────┴─► seconds of a step; of what fits the quickest is taken

A pure function: nothing is started, no torch, no ray. The same plan drives local Ray, a Ray job and Slurm.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Literal

from pydantic import BaseModel, ConfigDict

from distft.common.errors import UserError
from distft.config.cluster import Cluster
from distft.config.engines import ENGINES
from distft.config.method import at_once
from distft.config.recipe import Recipe
from distft.config.roles import (
    answers_held_out,
    answers_in_training,
    has_engines,
    is_rl,
    main_role,
    model_of,
    num_held_out_answers,
    phases,
    unit_size,
)
from distft.planning.batch_arithmetic import BatchArithmetic, batch_arithmetic
from distft.planning.encoder_decoders import require_possible
from distft.planning.estimate import Estimate
from distft.planning.flops import StepFlops, step_flops
from distft.planning.footprint import RoleMemory, Roles, SizeBook
from distft.planning.generation import Generation, engine_environment, engine_settings, settled
from distft.planning.group_environment import group_environment
from distft.planning.hardware import Hardware, hardware_of
from distft.planning.layout import Layout, best_layout, fits
from distft.planning.loads import Load
from distft.planning.machine import Machine
from distft.planning.micro_batch_cost import micro_batch_cost
from distft.planning.model_sizes import ModelSizes
from distft.planning.packed_rows import with_rows
from distft.planning.placement_plan import Span
from distft.planning.rates import Rates
from distft.planning.remedies import Remedy, Tried, remedies
from distft.planning.residency import Turn, said
from distft.planning.routing import require_experts
from distft.planning.second_shards import require_on_a_node
from distft.planning.sharing import slot_share, threads
from distft.planning.smallest import Smallest, smallest_that_fits

# Above this share of a capacity the plan warns: the estimate may be that much off.
TIGHT = 0.9


class Frozen(BaseModel):
    """The base of the plan's parts."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class RankPlan(Frozen):
    """One rank: ``node`` numbers the run's nodes, ``slot`` the GPUs (or CPU slots) of that node."""

    rank: int
    node: int
    slot: int


class Bundle(Frozen):
    """What one place of a device set reserves on its node."""

    node: int
    cpus: float
    gpus: float


class GroupPlan(Frozen):
    """All ranks of one group. ``roles`` live in it; groups of one ``device_set`` share its bundles, and those
    ``beside`` it keep their memory while it works; of the others of the set those ``resting`` keep their weights, the
    rest sleep.

    Rank i of every group of a device set sits in bundle i. ``cpus_per_rank`` is the group's own part of the
    bundle, whose cores are used at the same time; ``gpus_per_rank`` is the whole bundle's, used in turn.
    """

    role: str
    roles: tuple[str, ...]
    device_set: str
    beside: tuple[str, ...] = ()
    resting: tuple[str, ...] = ()
    ranks: tuple[RankPlan, ...]
    cpus_per_rank: float
    gpus_per_rank: float
    threads: int
    micro_batch_cost: int | None
    env: dict[str, str]

    @property
    def num_ranks(self) -> int:
        """Ranks of the group."""
        return len(self.ranks)

    @property
    def node_of_rank(self) -> tuple[int, ...]:
        """The number of the node of each rank."""
        return tuple(rank.node for rank in self.ranks)


class DataWorkerPlan(Frozen):
    """The data worker's own place, on the first node."""

    node: int
    cpus: float
    env: dict[str, str]


class Plan(Frozen):
    """Who sits where. JSON round trip by ``model_dump_json`` and ``model_validate_json``.

    ``fits`` is None where the sizes of a model are not known. ``phases``: roles that compute at the same
    time, in the order of a step. Memory in bytes. ``tight``: what is more than nine tenths full. ``flops``: what the
    models themselves ask for, None where their sizes are not known. ``estimate`` is None where ``estimate_unknown``
    says what it lacks; ``smallest``: the fewest GPUs on which the recipe fits. ``generation``: what generates,
    None where nothing is sampled.
    """

    format: Literal[1] = 1
    recipe: str
    algorithm: str
    cluster: str
    kind: Literal["local", "slurm", "ray"]
    hardware: Hardware
    device_sets: dict[str, tuple[Bundle, ...]]
    groups: dict[str, GroupPlan]
    data_worker: DataWorkerPlan
    turns: dict[str, Turn]
    phases: tuple[tuple[str, ...], ...]
    batch: BatchArithmetic
    memory: dict[str, RoleMemory]
    loads: tuple[Load, ...]
    fits: bool | None
    tight: tuple[str, ...] = ()
    flops: StepFlops | None = None
    estimate: Estimate | None = None
    estimate_unknown: str = ""
    smallest: Smallest | None = None
    remedies: tuple[Remedy, ...] = ()
    generation: Generation | None = None
    notes: tuple[str, ...] = ()

    @property
    def nodes_used(self) -> int:
        """Nodes that hold a rank."""
        return len({bundle.node for bundles in self.device_sets.values() for bundle in bundles})

    @property
    def num_devices(self) -> int:
        """GPUs (on CPU clusters: slots) that hold a rank, each counted once however many roles share it."""
        return sum(len(bundles) for bundles in self.device_sets.values())

    def group_of(self, role: str) -> GroupPlan:
        """The group in which a role lives. Raises KeyError for a role that the run does not have."""
        for group in self.groups.values():
            if role in group.roles:
                return group
        raise KeyError(role)


def make_plan(
    recipe: Recipe, cluster: Cluster, *, machine: Machine | None = None, rates: Rates | None = None, vllm: str = ""
) -> Plan:
    """The quickest arrangement that fits, else the one that comes nearest, with what would make it fit.

    ``machine`` fills in what the cluster file leaves to be found out: this machine for ``local``, the
    running cluster for ``ray``; what such a file says beyond it is refused. ``rates``: what was measured of it.
    ``vllm``: the version of it that is installed there, empty for none.

    Raises EnvironmentFallsShort where there are too few CPUs, GPUs or nodes, UserError for a placement or a
    model that cannot be. That it does not fit into memory is no exception: see ``Plan.fits``.
    """
    require_possible(recipe)
    book = SizeBook()
    recipe, hardware = with_rows(recipe, book), hardware_of(cluster, machine, rates)
    sizes = _policy_sizes(recipe, book)
    require_experts(recipe, sizes)
    recipe, why = settled(recipe, hardware, sizes, vllm)
    layout = best_layout(recipe, hardware, book)
    require_on_a_node(recipe, layout.arrangement, layout.spans)
    plan = _written_out(recipe, cluster, machine, layout)
    plan = plan.model_copy(update={"generation": _generation(recipe, why, layout, Roles(recipe, book))})
    if all(not memory.unknown for memory in layout.memory.values()):
        plan = plan.model_copy(update={"flops": step_flops(Roles(recipe, book))})
    if layout.fits is None:
        return plan
    plan = plan.model_copy(update={"smallest": smallest_that_fits(recipe, hardware, book)})
    if layout.fits:
        return plan

    def seconds(changed: Recipe, on: Cluster) -> float | None:
        try:
            found = best_layout(changed, hardware_of(on, machine, rates), book)
        except UserError:
            return None
        return found.estimate.seconds if found.estimate else None

    def fit(changed: Recipe, on: Cluster) -> bool:
        try:
            return fits(changed, hardware_of(on, machine), book)
        except UserError:
            return False

    found = remedies(recipe, cluster, Tried(fit, seconds), gpu=hardware.gpus > 0)
    return plan.model_copy(update={"remedies": found})


def _policy_sizes(recipe: Recipe, book: SizeBook) -> ModelSizes | None:
    """The sizes of a policy that samples; None where they are not known."""
    try:
        return Roles(recipe, book).sizes("policy") if is_rl(recipe) else None
    except UserError:
        return None


def _generation(recipe: Recipe, why: str, layout: Layout, facts: Roles) -> Generation | None:
    """What generates; None where nothing is sampled."""
    if not is_rl(recipe):
        return None
    if not has_engines(recipe):
        return Generation("hf", why)
    sizes = None if layout.memory[ENGINES].unknown else facts.sizes(ENGINES)
    engines = layout.arrangement.ranks[ENGINES]
    return Generation("vllm", why, engine_settings(recipe, engines, sizes, gpu=layout.hardware.gpus > 0))


def _written_out(recipe: Recipe, cluster: Cluster, machine: Machine | None, layout: Layout) -> Plan:
    arrangement, share = layout.arrangement, slot_share(layout.hardware)
    ranks = {root: _ranks(spans) for root, spans in layout.spans.items()}
    groups = {
        group: _group(recipe, cluster, machine, layout, group, ranks[root])
        for group, root in arrangement.set_of.items()
    }
    main = main_role(recipe)
    num_ranks, engine = groups[arrangement.group_of[main]].num_ranks, model_of(recipe, main).engine
    batch = batch_arithmetic(recipe, num_ranks, engine.sequence_parallel, packed=bool(engine.packed))
    return Plan(
        recipe=recipe.name,
        algorithm=recipe.algorithm.name,
        cluster=cluster.name,
        kind=cluster.kind,
        hardware=layout.hardware,
        device_sets={
            root: tuple(
                Bundle.model_construct(node=seat.node, cpus=share.cpus, gpus=share.gpus)
                for span in chosen
                for seat in span
            )
            for root, chosen in layout.spans.items()
        },
        groups=groups,
        data_worker=DataWorkerPlan(
            node=0, cpus=share.data_worker_cpus, env=group_environment(cluster, machine, gpus=0, threads=1)
        ),
        turns=dict(layout.turns),
        phases=at_once(phases(recipe)),
        batch=batch,
        memory=dict(layout.memory),
        loads=layout.loads,
        fits=layout.fits,
        tight=tuple(_tight(layout)),
        estimate=layout.estimate,
        estimate_unknown=layout.unknown,
        notes=_notes(recipe, layout, batch),
    )


def _ranks(spans: Iterable[Span]) -> tuple[RankPlan, ...]:
    """The ranks of every group of a device set. Not validated one by one: there may be thousands."""
    seats = (seat for span in spans for seat in span)
    return tuple(RankPlan.model_construct(rank=rank, node=seat.node, slot=seat.slot) for rank, seat in enumerate(seats))


def _group(
    recipe: Recipe,
    cluster: Cluster,
    machine: Machine | None,
    layout: Layout,
    group: str,
    ranks: tuple[RankPlan, ...],
) -> GroupPlan:
    arrangement, hardware, share = layout.arrangement, layout.hardware, slot_share(layout.hardware)
    root = arrangement.set_of[group]
    count = threads(recipe, group, arrangement, layout.spans, hardware)
    return GroupPlan(
        role=group,
        roles=tuple(role for role, its in arrangement.group_of.items() if its == group),
        device_set=root,
        beside=layout.turns[group].awake,
        resting=layout.turns[group].resting,
        ranks=ranks,
        cpus_per_rank=share.divided(share.cpus, len(layout.arrangement.members[root])),
        gpus_per_rank=share.gpus,
        threads=count,
        micro_batch_cost=None
        if group == ENGINES
        else micro_batch_cost(
            cluster,
            model_of(recipe, group).engine.on(len(ranks)),
            gpus=hardware.gpus,
            nodes=[rank.node for rank in ranks],
        ),
        env=group_environment(cluster, machine, gpus=hardware.gpus, threads=count)
        | (engine_environment(gpu=hardware.gpus > 0) if group == ENGINES else {}),
    )


def _tight(layout: Layout) -> Iterator[str]:
    """What is nearly full, the fullest first."""
    known = [(load.bytes / load.capacity, load.where) for load in layout.loads if load.capacity]
    for share, where in sorted(known, reverse=True):
        if TIGHT < share <= 1:
            yield f"{where}: {share:.0%} full"


def _notes(recipe: Recipe, layout: Layout, batch: BatchArithmetic) -> tuple[str, ...]:
    notes = [f"{role}: {memory.unknown}" for role, memory in layout.memory.items() if memory.unknown]
    if guests := [role for role, group in layout.arrangement.group_of.items() if role != group]:
        notes.append(f"{', '.join(guests)} in the policy's processes, over its base, which is held once")
    for members in layout.arrangement.members.values():
        if len(members) > 1 and layout.hardware.gpus:
            notes += said(layout.turns, members, layout.hardware.gpu_memory)
        elif len(members) > 1:
            notes.append(f"{', '.join(members)} share the same cores, all of them in memory")
    if recipe.algorithm.caches_reference():
        notes.append(
            "no group for the reference: the policy computes its log-probs once, before the first step, and the run "
            "folder keeps them"
        )
    if answers_held_out(recipe) and recipe.evaluation.metrics:
        answers, new = num_held_out_answers(recipe), recipe.rollout.max_new_tokens
        notes.append(
            f"an evaluation lets the policy answer {answers} prompts with up to {new} tokens each, from its own weights"
        )
    if answers_in_training(recipe):
        share, new = recipe.algorithm.on_policy_share(), recipe.rollout.max_new_tokens
        notes.append(
            f"in {share:.0%} of the steps the policy answers the prompts itself with up to {new} tokens each: how "
            "long that takes is not in the time of a step"
        )
    together = 1 if is_rl(recipe) else unit_size(recipe)  # what is sampled is read one by one
    idle = batch.ranks - batch.sequences // together * batch.shared_by
    if idle > 0:
        notes.append(f"{idle} of {batch.ranks} ranks have nothing to do: a step has {batch.units} {batch.unit}")
    free = layout.hardware.nodes * layout.hardware.gpus - sum(layout.arrangement.ranks.values())
    if free > 0 and layout.estimate is not None:
        notes.append(f"{free} GPUs are left over: with more ranks the step would not be shorter")
    return tuple(notes)
