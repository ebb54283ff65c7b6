"""A plan for the nodes that are left, where no other took the place of a lost one (``recovery.elastic``)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from distft.common.errors import UserError
from distft.config.cluster import Cluster
from distft.config.recipe import Recipe
from distft.config.rules import check
from distft.config.training import Placement, RolePlacement
from distft.planning.generation import installed_vllm
from distft.planning.machine import Machine
from distft.planning.plan import Plan, make_plan
from distft.planning.rates import read_rates


@dataclass(frozen=True)
class Fewer:
    """The recipe and its plan on so many ``nodes``; ``placement`` of the recipe leaves the ranks open where those that
    it said had no room."""

    recipe: Recipe
    plan: Plan
    nodes: int


def plan_for_fewer(
    recipe: Recipe, cluster: Cluster, machine: Machine, most: int, shortage: Callable[[Recipe, Plan], str]
) -> Fewer | str:
    """A plan on as many nodes as there are, ``most`` at most, that fits and for which there is no ``shortage``; else
    what is wrong with the last that was tried. ``machine``: what is there."""
    why = "no node is left"
    for nodes in range(min(machine.nodes, most), 0, -1):
        on = cluster.model_copy(update={"nodes": nodes})
        for candidate in _placed(recipe):
            try:
                check(candidate)
                rates = read_rates(cluster, machine.gpu_type)
                plan = make_plan(candidate, on, machine=machine, rates=rates, vllm=installed_vllm())
            except UserError as error:
                why = error.what
                continue
            why = "it does not fit into memory there" if plan.fits is False else shortage(candidate, plan)
            if not why:
                return Fewer(candidate, plan, nodes)
    return why


def changed_ranks(before: Plan, after: Plan) -> dict[str, str]:
    """The groups that have another number of ranks, as it was and is."""
    ranks = {role: (before.groups[role].num_ranks if role in before.groups else 0, group.num_ranks)
             for role, group in after.groups.items()}  # fmt: skip
    return {role: f"{then} -> {now}" for role, (then, now) in ranks.items() if then != now}


def _placed(recipe: Recipe) -> Iterator[Recipe]:
    """The recipe as it is, and with ranks that the plan chooses."""
    yield recipe
    placement = recipe.placement
    opened = {name: _opened(getattr(placement, name)) for name in Placement.model_fields if name != "rewards"}
    further = {name: _opened(one) for name, one in placement.rewards.items()}
    yield recipe.model_copy(update={"placement": placement.model_copy(update=opened | {"rewards": further})})


def _opened(place: RolePlacement) -> RolePlacement:
    return place.model_copy(update={"ranks": "auto"})
