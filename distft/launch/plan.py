"""The plan: recipe x cluster to which rank of which role sits where, with what, and whether it fits.

    recipe ──► arrangements ──► seats ──► groups (ranks, threads, environment)
    cluster ─► hardware ─┘                  │
    config.json ─► sizes ─► memory items ───┴─► loads per device and node ─► fits? else remedies

A pure function: nothing is started, no torch, no ray. The same plan drives local Ray, a Ray job and Slurm.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from distft.common.errors import UserError
from distft.config.cluster import Cluster
from distft.config.recipe import Recipe
from distft.config.roles import main_role, roles
from distft.launch.batch_arithmetic import BatchArithmetic, batch_arithmetic
from distft.launch.environment import group_environment
from distft.launch.footprint import Load, RoleMemory
from distft.launch.hardware import Hardware, hardware_of
from distft.launch.layout import Layout, best_layout
from distft.launch.machine import Machine
from distft.launch.remedies import Remedy, remedies
from distft.launch.sharing import PHASES, slot_share, threads

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
    """All ranks of one group. ``roles`` live in it; groups of one ``device_set`` take turns on its bundles.

    Rank i of every group of a device set sits in bundle i. ``cpus_per_rank`` is the group's own part of the
    bundle, whose cores are used at the same time; ``gpus_per_rank`` is the whole bundle's, used in turn.
    """

    role: str
    roles: tuple[str, ...]
    device_set: str
    ranks: tuple[RankPlan, ...]
    cpus_per_rank: float
    gpus_per_rank: float
    threads: int
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
    time, in the order of a step. Memory in bytes.
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
    phases: tuple[tuple[str, ...], ...]
    batch: BatchArithmetic
    memory: dict[str, RoleMemory]
    loads: tuple[Load, ...]
    fits: bool | None
    remedies: tuple[Remedy, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def nodes_used(self) -> int:
        """Nodes that hold a rank."""
        return len({bundle.node for bundles in self.device_sets.values() for bundle in bundles})

    def group_of(self, role: str) -> GroupPlan:
        """The group in which a role lives. Raises KeyError for a role that the run does not have."""
        for group in self.groups.values():
            if role in group.roles:
                return group
        raise KeyError(role)

    def group_specs_view(self) -> dict[str, dict[str, Any]]:
        """By role of the group: what starts it, under the names of ``groups``' GroupSpec (which adds the worker)."""
        return {
            group.role: {
                "role": group.role,
                "num_ranks": group.num_ranks,
                "device_set": group.device_set,
                "cpus_per_rank": group.cpus_per_rank,
                "gpus_per_rank": group.gpus_per_rank,
                "env": dict(group.env),
                "node_of_rank": group.node_of_rank,
            }
            for group in self.groups.values()
        }


def make_plan(recipe: Recipe, cluster: Cluster, *, machine: Machine | None = None) -> Plan:
    """The first arrangement that fits, else the one that comes nearest, with what would make it fit.

    ``machine`` fills in what the cluster file leaves to be found out: this machine for ``local``, the
    running cluster for ``ray``; what such a file says beyond it is refused.

    Raises EnvironmentFallsShort where there are too few CPUs, GPUs or nodes, UserError for a placement or a
    model that cannot be. That it does not fit into memory is no exception: see ``Plan.fits``.
    """
    layout = best_layout(recipe, hardware_of(cluster, machine))
    plan = _written_out(recipe, cluster, machine, layout)
    if layout.fits is not False:
        return plan

    def fits(changed: Recipe, on: Cluster) -> bool:
        try:
            return best_layout(changed, hardware_of(on, machine)).fits is True
        except UserError:
            return False

    return plan.model_copy(update={"remedies": remedies(recipe, cluster, fits, gpu=layout.hardware.gpus > 0)})


def _written_out(recipe: Recipe, cluster: Cluster, machine: Machine | None, layout: Layout) -> Plan:
    arrangement, share = layout.arrangement, slot_share(layout.hardware)
    groups = {group: _group(recipe, cluster, machine, layout, group) for group in arrangement.set_of}
    batch = batch_arithmetic(recipe, groups[arrangement.group_of[main_role(recipe)]].num_ranks)
    return Plan(
        recipe=recipe.name,
        algorithm=recipe.algorithm.kind,
        cluster=cluster.name,
        kind=cluster.kind,
        hardware=layout.hardware,
        device_sets={
            root: tuple(Bundle(node=seat.node, cpus=share.cpus, gpus=share.gpus) for seat in chosen)
            for root, chosen in layout.seats.items()
        },
        groups=groups,
        data_worker=DataWorkerPlan(
            node=0, cpus=share.data_worker_cpus, env=group_environment(cluster, machine, gpus=0, threads=1)
        ),
        phases=PHASES[recipe.algorithm.kind],
        batch=batch,
        memory=dict(layout.memory),
        loads=layout.loads,
        fits=layout.fits,
        notes=_notes(layout, batch),
    )


def _group(recipe: Recipe, cluster: Cluster, machine: Machine | None, layout: Layout, group: str) -> GroupPlan:
    arrangement, hardware, share = layout.arrangement, layout.hardware, slot_share(layout.hardware)
    root = arrangement.set_of[group]
    count = threads(recipe, group, arrangement, layout.seats, hardware)
    return GroupPlan(
        role=group,
        roles=tuple(role for role in roles(recipe) if arrangement.group_of[role] == group),
        device_set=root,
        ranks=tuple(
            RankPlan(rank=rank, node=seat.node, slot=seat.slot) for rank, seat in enumerate(layout.seats[root])
        ),
        cpus_per_rank=share.divided(share.cpus, len(layout.arrangement.members[root])),
        gpus_per_rank=share.gpus,
        threads=count,
        env=group_environment(cluster, machine, gpus=hardware.gpus, threads=count),
    )


def _notes(layout: Layout, batch: BatchArithmetic) -> tuple[str, ...]:
    notes = [f"{role}: {memory.unknown}" for role, memory in layout.memory.items() if memory.unknown]
    notes += [
        f"{', '.join(groups)} take turns on the same devices"
        for groups in layout.arrangement.members.values()
        if len(groups) > 1
    ]
    notes += [
        f"tight: {load.where} {load.bytes / load.capacity:.0%} full"
        for load in layout.loads
        if load.capacity and TIGHT < load.bytes / load.capacity <= 1
    ]
    idle = batch.ranks - batch.sequences // (2 if batch.unit == "pairs" else 1)
    if idle > 0:
        notes.append(f"{idle} of {batch.ranks} ranks have nothing to do: a step has {batch.units} {batch.unit}")
    return tuple(notes)
