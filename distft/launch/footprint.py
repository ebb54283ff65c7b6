"""From a recipe's roles to bytes on each kind of GPU and node: who holds what, and is there room?"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from distft.common.errors import UserError
from distft.config.load import resolve_path
from distft.config.models import Model
from distft.config.recipe import Recipe
from distft.config.roles import is_rl, model_of, optimizer_of, trained_roles
from distft.launch.batch_arithmetic import batch_arithmetic
from distft.launch.hardware import Hardware
from distft.launch.memory import (
    PHASES,
    Compute,
    Generation,
    Item,
    Place,
    Work,
    activation_items,
    peak,
    rank_items,
)
from distft.launch.model_sizes import ModelSizes, local_folder, sizes_from_folder, sizes_from_init
from distft.launch.placement_plan import Arrangement, Seat

SCALAR_ROLES = ("reward", "value")
# On the first node the driver, the data worker and Ray's head; on every node Ray's processes and its store.
HEAD_BYTES = 2**30
NODE_BYTES = 2**28


@dataclass(frozen=True)
class RoleMemory:
    """What one rank of a role holds. ``unknown`` says why nothing is known of it; then there are no items."""

    items: tuple[Item, ...]
    parameters: int = 0
    unknown: str = ""


@dataclass(frozen=True)
class Load:
    """The fullest GPU of a device set, or the fullest node: ``bytes`` of ``capacity`` at the fullest moment."""

    where: str
    kind: Literal["gpu", "node"]
    roles: tuple[str, ...]
    bytes: int
    capacity: int


def sizes_of(recipe: Recipe, role: str) -> ModelSizes:
    """The sizes of a role's model, with the head that the role needs.

    Raises UserError where they are not to be found on this machine.
    """
    model = model_of(recipe, role)
    if model.init is not None:
        sizes = sizes_from_init(model.init)
    else:
        path = resolve_path(str(model.path))
        folder = local_folder(path)
        if folder is None:
            raise UserError("is not on this machine, so its sizes are not known", where=path, hint="fetch it first")
        sizes = sizes_from_folder(folder)
    return sizes.with_scalar_head() if role in SCALAR_ROLES else sizes


def role_memory(recipe: Recipe, role: str, ranks: int, *, gpu: bool, shared: bool) -> RoleMemory:
    """The items of one rank of a role on ``ranks`` ranks; a role in another's group adds no model of its own."""
    model = model_of(recipe, role)
    try:
        sizes = sizes_of(recipe, role)
    except UserError as error:
        if (model.path or "").startswith("run:"):
            raise
        return RoleMemory((), unknown=str(error).replace("\n", ";"))
    compute, work = _compute(recipe, role, model, gpu=gpu), _work(recipe, role, ranks)
    if shared:
        frozen = replace(compute, trained=False)
        return RoleMemory(tuple(activation_items(sizes, frozen, work)), sizes.total)
    return RoleMemory(tuple(rank_items(sizes, model.engine, compute, work, ranks)), sizes.total)


def loads(
    memory: Mapping[str, RoleMemory], arrangement: Arrangement, seats: Mapping[str, Sequence[Seat]], hardware: Hardware
) -> tuple[Load, ...]:
    """The fullest GPU of each device set (GPU clusters) and the fullest node."""
    by_group: dict[str, list[Item]] = defaultdict(list)
    for role, group in arrangement.group_of.items():
        by_group[group] += memory[role].items
    found = []
    if hardware.gpus:
        for root, groups in arrangement.members.items():
            on_it = arrangement.roles_of_set[root]
            needed = _taking_turns([by_group[group] for group in groups])
            found.append(Load(f"GPUs of {', '.join(on_it)}", "gpu", on_it, needed, hardware.gpu_memory))
    found.append(_fullest_node(by_group, arrangement, seats, hardware))
    return tuple(found)


def _taking_turns(groups: Sequence[Sequence[Item]]) -> int:
    """A GPU whose groups sleep in turn: one awake, of the others only their processes' own memory."""
    processes = [
        sum(item.bytes for item in items if item.name == "process" and item.place == "device") for items in groups
    ]
    awake = [peak(items, "device") - process for items, process in zip(groups, processes, strict=True)]
    return sum(processes) + max(awake)


def _fullest_node(
    by_group: Mapping[str, Sequence[Item]],
    arrangement: Arrangement,
    seats: Mapping[str, Sequence[Seat]],
    hardware: Hardware,
) -> Load:
    """Nodes with the same ranks on them are alike, so each kind is counted once."""
    ranks: dict[int, Counter[str]] = defaultdict(Counter)
    for root, chosen in seats.items():
        for seat in chosen:
            ranks[seat.node][root] += 1
    places: tuple[Place, ...] = ("host",) if hardware.gpus else ("host", "device")
    found, seen = [], set()
    for node in sorted(ranks):
        kind = tuple(sorted(ranks[node].items()))
        if kind in seen:
            continue
        seen.add(kind)
        held = [(count, by_group[group]) for root, count in kind for group in arrangement.members[root]]
        own = NODE_BYTES + (HEAD_BYTES if node == 0 else 0)
        asleep = _asleep_on_host(kind, by_group, arrangement) if hardware.gpus else 0
        roles = tuple(role for root, _ in kind for role in arrangement.roles_of_set[root])
        found.append(Load(f"node {node}", "node", roles, own + asleep + _at_once(held, places), hardware.memory))
    return max(found, key=lambda load: load.bytes)


def _at_once(held: Iterable[tuple[int, Sequence[Item]]], places: Sequence[Place]) -> int:
    """The most that the ranks of a node hold at one moment: all are in the same phase."""
    held = list(held)

    def total(when: str) -> int:
        return sum(
            count * item.bytes for count, items in held for item in items if item.when == when and item.place in places
        )

    return total("always") + max(total(phase) for phase in PHASES)


def _asleep_on_host(
    kind: Iterable[tuple[str, int]], by_group: Mapping[str, Sequence[Item]], arrangement: Arrangement
) -> int:
    """Host memory of groups that sleep: their states wait there while another has the GPU."""
    asleep = 0
    for root, count in kind:
        states = [_states(by_group[group]) for group in arrangement.members[root]]
        asleep += count * (sum(states) - min(states))
    return asleep


def _states(items: Iterable[Item]) -> int:
    """What leaves the GPU when a group goes to sleep: all that is always there but the process itself."""
    return sum(
        item.bytes for item in items if item.when == "always" and item.place == "device" and item.name != "process"
    )


def _compute(recipe: Recipe, role: str, model: Model, *, gpu: bool) -> Compute:
    trained = role in trained_roles(recipe)
    return Compute(
        dtype=model.dtype,
        trained=trained,
        adam=trained and optimizer_of(recipe, role).name == "adamw",
        checkpointing=model.gradient_checkpointing,
        eager_attention=model.attention == "eager",
        gpu=gpu,
    )


def _work(recipe: Recipe, role: str, ranks: int) -> Work:
    """The largest micro-batch: rows of the longest length up to the token cap; in RL only responses are read."""
    batch = batch_arithmetic(recipe, ranks)
    everything = -(-batch.sequences // ranks)
    sequences = batch.sequences_per_rank if role in trained_roles(recipe) else everything
    rows = min(batch.rows, sequences)
    tokens = min(recipe.train.max_tokens_per_rank, sequences * batch.longest)
    read, generation = tokens, None
    if is_rl(recipe):
        read = min(tokens, rows * recipe.rollout.max_new_tokens)
        if role == "policy":
            at_once = min(recipe.rollout.max_batch_per_rank, everything)
            generation = Generation(at_once, batch.longest, recipe.rollout.weights == "gathered")
    return Work(tokens=tokens, length=batch.longest, read=read, scalar=role in SCALAR_ROLES, generation=generation)
