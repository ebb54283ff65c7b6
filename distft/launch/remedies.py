"""What would make a plan fit: single changes first, then the cheap ones together, each tried with the real plan."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from pydantic import BaseModel

from distft.config.cluster import Cluster
from distft.config.recipe import Recipe
from distft.config.roles import is_rl, longest_sequence, model_of, roles, trained_roles, unit_size

MOST_REMEDIES = 6
MOST_NODES = 1024
Fits: TypeAlias = Callable[[Recipe, Cluster], bool]


@dataclass(frozen=True)
class Remedy:
    """A change that makes a plan fit: overrides (``key=value``) or hardware, and what it costs."""

    change: str
    cost: str


@dataclass(frozen=True)
class _Change:
    """Overrides (dotted key to value) and what they cost the user."""

    overrides: dict[str, Any]
    cost: str

    def __str__(self) -> str:
        return " ".join(f"{key}={_text(value)}" for key, value in self.overrides.items())


def remedies(recipe: Recipe, cluster: Cluster, fits: Fits, *, gpu: bool) -> tuple[Remedy, ...]:
    """Changes that make it fit, cheapest first: what costs time only, then what costs quality or money.

    ``fits`` plans a recipe on a cluster and says whether it does.
    """
    changes = list(_changes(recipe, gpu=gpu))
    found = _single(recipe, cluster, changes, fits) or _combined(recipe, cluster, changes, fits)
    if nodes := _nodes_that_fit(recipe, cluster, fits):
        found.append(Remedy(f"{nodes} nodes in place of {cluster.nodes}", "more hardware"))
    return tuple(found[:MOST_REMEDIES])


def _single(recipe: Recipe, cluster: Cluster, changes: Sequence[_Change], fits: Fits) -> list[Remedy]:
    """Each change that is enough by itself, the mildest of those that turn the same key."""
    found: list[Remedy] = []
    turned: set[str] = set()
    for change in changes:
        if turned.isdisjoint(change.overrides) and fits(with_overrides(recipe, change.overrides), cluster):
            found.append(Remedy(str(change), change.cost))
            turned |= set(change.overrides)
    return found


def _combined(recipe: Recipe, cluster: Cluster, changes: Sequence[_Change], fits: Fits) -> list[Remedy]:
    """The first changes together, as many as it takes; then those that turn out not to be needed are taken back."""
    chosen: list[_Change] = []
    for change in changes:
        chosen = [other for other in chosen if other.overrides.keys() != change.overrides.keys()] + [change]
        if fits(_changed(recipe, chosen), cluster):
            break
    else:
        return []
    for change in list(chosen):
        fewer = [other for other in chosen if other is not change]
        if fits(_changed(recipe, fewer), cluster):
            chosen = fewer
    return [Remedy(" ".join(map(str, chosen)), "; ".join(dict.fromkeys(change.cost for change in chosen)))]


def _changed(recipe: Recipe, changes: Iterable[_Change]) -> Recipe:
    for change in changes:
        recipe = with_overrides(recipe, change.overrides)
    return recipe


def with_overrides(recipe: Recipe, overrides: dict[str, Any]) -> Recipe:
    """The recipe with dotted keys set; sections that were not given are filled with the role's defaults first."""
    for key, value in overrides.items():
        parts = key.split(".")
        if parts[0] == "models" and getattr(recipe.models, parts[1]) is None:
            recipe = _set(recipe, parts[:2], model_of(recipe, parts[1]))
        recipe = _set(recipe, parts, value)
    return recipe


def _set(section: Any, parts: list[str], value: Any) -> Any:
    name = "with_" if parts[0] == "with" else parts[0]
    inner = value if len(parts) == 1 else _set(getattr(section, name), parts[1:], value)
    assert isinstance(section, BaseModel)
    changed = section.model_copy(update={name: inner})
    changed.__pydantic_fields_set__.add(name)
    return changed


def _changes(recipe: Recipe, *, gpu: bool) -> Iterator[_Change]:
    """All that may be tried, cheapest for the user first."""
    trained = [role for role in roles(recipe) if role in trained_roles(recipe)]
    loose = [role for role in roles(recipe) if model_of(recipe, role).engine.zero_stage < 3]
    if loose:
        yield _Change({f"models.{role}.engine.zero_stage": 3 for role in loose}, "more communication")
    if is_rl(recipe):
        batch = recipe.rollout.max_batch_per_rank
        while batch > 4:
            batch //= 4
            yield _Change({"rollout.max_batch_per_rank": batch}, "slower generation")
    plain = [role for role in trained if not model_of(recipe, role).gradient_checkpointing]
    if plain:
        yield _Change(
            {f"models.{role}.gradient_checkpointing": True for role in plain}, "about a third more time a step"
        )
    least, tokens = longest_sequence(recipe) * unit_size(recipe), recipe.train.max_tokens_per_rank
    while tokens > least:
        tokens = max(least, tokens // 2)
        yield _Change({"train.max_tokens_per_rank": tokens}, "more, smaller micro-batches")
    wide = [role for role in roles(recipe) if model_of(recipe, role).dtype == "float32"]
    if wide:
        yield _Change({f"models.{role}.dtype": "bfloat16" for role in wide}, "less precision")
    if gpu:
        yield _Change({f"models.{role}.engine.offload_optimizer": "cpu" for role in trained}, "slower optimizer steps")
    if is_rl(recipe) and recipe.rollout.weights == "gathered":
        yield _Change({"rollout.weights": "sharded"}, "generation about ten times slower")
    if gpu:
        sharded = {f"models.{role}.engine.zero_stage": 3 for role in loose}
        offload = {f"models.{role}.engine.offload_parameters": "cpu" for role in roles(recipe)}
        yield _Change(sharded | offload, "much slower")


def _nodes_that_fit(recipe: Recipe, cluster: Cluster, fits: Fits) -> int:
    """The smallest number of nodes, by doubling and then halving the gap; 0 when none up to the limit fits."""
    if cluster.kind == "local" or not isinstance(cluster.nodes, int):
        return 0
    low, high = cluster.nodes, 2 * cluster.nodes
    while high <= MOST_NODES and not fits(recipe, cluster.model_copy(update={"nodes": high})):
        low, high = high, 2 * high
    if high > MOST_NODES:
        return 0
    while high - low > 1:
        middle = (low + high) // 2
        if fits(recipe, cluster.model_copy(update={"nodes": middle})):
            high = middle
        else:
            low = middle
    return high


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
