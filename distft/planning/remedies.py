"""What would make a plan fit: single changes first, then the cheap ones together, each tried with the real plan.

Ranked by how much they change for the user: how and where things are computed, which leaves every result as it is
(of those the quickest first, where times can be estimated); then more nodes; then what changes what is learned.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import inf
from typing import Any, Literal, TypeAlias

from pydantic import BaseModel

from distft.config.adapters.lora import Lora
from distft.config.cluster import Cluster
from distft.config.models import Quantization
from distft.config.recipe import Recipe
from distft.config.role_table import ROLES
from distft.config.roles import is_rl, keeps_twin, longest_sequence, model_of, roles, trained_roles, unit_size
from distft.config.training import RolePlacement
from distft.planning.smallest import MOST_NODES, fewest

MOST_REMEDIES = 6
# Sequences are not offered shorter than this.
SHORTEST = 128
Size: TypeAlias = Literal["computing", "hardware", "learning"]
SIZES: tuple[Size, ...] = ("computing", "hardware", "learning")


@dataclass(frozen=True)
class Remedy:
    """A change that makes a plan fit: overrides (``key=value``) or hardware, what it costs, the seconds of a step."""

    change: str
    cost: str
    seconds: float | None = None


@dataclass(frozen=True)
class Tried:
    """How a recipe does on a cluster: does it fit, and how many seconds does a step take (None: not known)?"""

    fits: Callable[[Recipe, Cluster], bool]
    seconds: Callable[[Recipe, Cluster], float | None]


@dataclass(frozen=True)
class _Change:
    """Overrides (dotted key to value), what they cost the user, and what they change for him."""

    overrides: dict[str, Any]
    cost: str
    size: Size = "computing"

    def __str__(self) -> str:
        return " ".join(f"{key}{_text(value)}" for key, value in self.overrides.items())


def remedies(recipe: Recipe, cluster: Cluster, tried: Tried, *, gpu: bool) -> tuple[Remedy, ...]:
    """Changes that make it fit, the smallest first."""
    changes = list(_changes(recipe, gpu=gpu))
    # By itself only: others are about the reference's own model.
    kept = [_Change({"algorithm.reference": "cached"}, "a pass over all rows before the first step")]
    single = [*kept, *changes] if _may_be_cached(recipe) else changes
    chosen = _single(recipe, cluster, single, tried) or _combined(recipe, cluster, changes, tried)
    found = []
    for parts in chosen:
        seconds = tried.seconds(_changed(recipe, parts), cluster)
        size = max((change.size for change in parts), key=SIZES.index)
        cost = "; ".join(dict.fromkeys(change.cost for change in parts))
        found.append((size, Remedy(" ".join(map(str, parts)), cost, seconds)))
    if nodes := _nodes_that_fit(recipe, cluster, tried):
        more = cluster.model_copy(update={"nodes": nodes})
        change = f"{nodes} nodes in place of {cluster.nodes}"
        found.append(("hardware", Remedy(change, "more hardware", tried.seconds(recipe, more))))
    found.sort(key=lambda one: (SIZES.index(one[0]), inf if one[1].seconds is None else one[1].seconds))
    return tuple(remedy for _, remedy in found[:MOST_REMEDIES])


def _single(recipe: Recipe, cluster: Cluster, changes: Sequence[_Change], tried: Tried) -> list[list[_Change]]:
    """Each change that is enough by itself, the mildest of those that turn the same key."""
    found: list[list[_Change]] = []
    turned: set[str] = set()
    for change in changes:
        if turned.isdisjoint(change.overrides) and tried.fits(with_overrides(recipe, change.overrides), cluster):
            found.append([change])
            turned |= set(change.overrides)
    return found


def _combined(recipe: Recipe, cluster: Cluster, changes: Sequence[_Change], tried: Tried) -> list[list[_Change]]:
    """The first changes together, as many as it takes; then those that turn out not to be needed are taken back."""
    chosen: list[_Change] = []
    for change in changes:
        chosen = [other for other in chosen if other.overrides.keys() != change.overrides.keys()] + [change]
        if tried.fits(_changed(recipe, chosen), cluster):
            break
    else:
        return []
    for change in list(chosen):
        fewer = [other for other in chosen if other is not change]
        if tried.fits(_changed(recipe, fewer), cluster):
            chosen = fewer
    return [chosen]


def _changed(recipe: Recipe, changes: Iterable[_Change]) -> Recipe:
    for change in changes:
        recipe = with_overrides(recipe, change.overrides)
    return recipe


def with_overrides(recipe: Recipe, overrides: dict[str, Any]) -> Recipe:
    """The recipe with dotted keys set; sections that were not given are filled with the role's defaults first."""
    for key, value in overrides.items():
        parts = key.split(".")
        if parts[0] == "models" and parts[1] in ROLES and getattr(recipe.models, parts[1]) is None:
            recipe = _set(recipe, parts[:2], model_of(recipe, parts[1]))
        recipe = _set(recipe, parts, value)
    return recipe


def _set(section: Any, parts: list[str], value: Any) -> Any:
    name = "with_" if parts[0] == "with" else parts[0]
    there = section.get(name) if isinstance(section, dict) else getattr(section, name)
    inner = value if len(parts) == 1 else _set(there, parts[1:], value)
    if isinstance(section, dict):
        return {**section, name: inner}
    assert isinstance(section, BaseModel)
    changed = section.model_copy(update={name: inner})
    changed.__pydantic_fields_set__.add(name)
    return changed


def _changes(recipe: Recipe, *, gpu: bool) -> Iterator[_Change]:
    """All that may be tried, cheapest for the user first."""
    trained = [role for role in roles(recipe) if role in trained_roles(recipe)]
    if recipe.checkpoint.asynchronous:
        yield _Change({"checkpoint.asynchronous": False}, "training waits while a checkpoint is written")
    if recipe.checkpoint.memory_every:
        yield _Change({"checkpoint.memory_every": 0}, "a death costs all steps since the last checkpoint")
    loose = [role for role in roles(recipe) if model_of(recipe, role).engine.zero_stage < 3]
    if loose:
        yield _Change({f"models.{role}.engine.zero_stage": 3 for role in loose}, "more communication")
    if is_rl(recipe):
        batch = recipe.rollout.max_batch_per_rank
        while batch > 4:
            batch //= 4
            yield _Change({"rollout.max_batch_per_rank": batch}, "slower generation")
    if gpu:
        yield from _placements(recipe)
    policy, place = recipe.models.policy, recipe.placement.of("reference")
    if policy is not None and policy.leaves_base and "reference" in roles(recipe) and place.share is None:
        alone = recipe.models.reference is None or not recipe.models.reference.differs
        if alone and place.with_ is None and place.ranks in ("auto", recipe.placement.of("policy").ranks):
            yield _Change({"placement.reference.share": "policy"}, "one group, so one after the other")
    plain = [role for role in trained if not model_of(recipe, role).gradient_checkpointing]
    if plain:
        yield _Change(
            {f"models.{role}.gradient_checkpointing": True for role in plain}, "about a third more time a step"
        )
    least, tokens = longest_sequence(recipe) * unit_size(recipe), recipe.train.max_tokens_per_rank
    while tokens > least:
        tokens = max(least, tokens // 2)
        yield _Change({"train.max_tokens_per_rank": tokens}, "more, smaller micro-batches")
    if gpu:
        yield _Change({f"models.{role}.engine.offload_optimizer": "cpu" for role in trained}, "slower optimizer steps")
    if keeps_twin(recipe):
        yield _Change({"rollout.weights": "sharded"}, "much slower generation")
    if gpu:
        sharded = {f"models.{role}.engine.zero_stage": 3 for role in loose}
        offload = {f"models.{role}.engine.offload_parameters": "cpu" for role in roles(recipe)}
        yield _Change(sharded | offload, "much slower")
    yield from _learning(recipe)


def _may_be_cached(recipe: Recipe) -> bool:
    """Whether what the reference says may be kept in its place: the method knows how, and nothing is said of the
    model."""
    untouched = recipe.models.reference is None and recipe.placement.reference == RolePlacement()
    return recipe.algorithm.may_cache_reference() and untouched


def _placements(recipe: Recipe) -> Iterator[_Change]:
    """Where the recipe says numbers of ranks: the plan may choose them, roles that take turns among its choices."""
    said = [role for role in roles(recipe) if recipe.placement.of(role).ranks != "auto"]
    if said:
        yield _Change({f"placement.{role}.ranks": "auto" for role in said}, "the plan places the roles")


def _learning(recipe: Recipe) -> Iterator[_Change]:
    """What fits by learning something else: adapters (not beside new tokens), shorter sequences, fewer bits."""
    trained = {role: model_of(recipe, role) for role in trained_roles(recipe)}
    grown = any(model.extend_vocabulary is not None for model in trained.values())
    lora: dict[str, Any] = {f"models.{role}.peft": Lora() for role, model in trained.items() if model.peft is None}
    if lora and not grown:
        yield _Change(lora, "adapters in place of the weights themselves", "learning")
    wide = [role for role in roles(recipe) if model_of(recipe, role).quantization is None]
    if wide and not grown and all(model.peft is None or model.leaves_base for model in trained.values()):
        bits = lora | {f"models.{role}.quantization": Quantization() for role in wide}
        if keeps_twin(recipe):
            bits["rollout.weights"] = "sharded"
        yield _Change(bits, "adapters over weights in four bits", "learning")
    key = "rollout.max_new_tokens" if is_rl(recipe) else "data.max_length"
    length = recipe.rollout.max_new_tokens if is_rl(recipe) else recipe.data.max_length
    while length // 2 >= SHORTEST:
        length //= 2
        yield _Change({key: length}, "shorter sequences, another task", "learning")
    wide = [role for role in roles(recipe) if model_of(recipe, role).dtype == "float32"]
    if wide:
        yield _Change({f"models.{role}.dtype": "bfloat16" for role in wide}, "less precision", "learning")


def _nodes_that_fit(recipe: Recipe, cluster: Cluster, tried: Tried) -> int:
    """The smallest number of nodes; 0 when none up to the limit fits, or there can be no more."""
    if cluster.kind == "local" or not isinstance(cluster.nodes, int):
        return 0
    return fewest(
        lambda nodes: tried.fits(recipe, cluster.model_copy(update={"nodes": nodes})), cluster.nodes, MOST_NODES
    )


def _text(value: Any) -> str:
    """How an override says it; a whole section by its kind, the rest are defaults."""
    if isinstance(value, (Lora, Quantization)):
        return f".method={value.method}"
    return f"={str(value).lower() if isinstance(value, bool) else value}"
