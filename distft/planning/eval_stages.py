"""What an eval stage of a pipeline takes: one process, and one model in it at a time."""

from __future__ import annotations

from typing import Literal

from distft.common.errors import UserError
from distft.config.cluster import Cluster
from distft.config.pipeline import EvalStage
from distft.config.recipe import Recipe
from distft.config.roles import main_role
from distft.planning.footprint import Roles, SizeBook
from distft.planning.memory import BYTES
from distft.planning.plan import Frozen


class EvalPlan(Frozen):
    """``weights``: bytes of the largest model that a stage makes, None where its size is not known or no stage makes
    one; ``command``: what is done, as it is typed."""

    kind: Literal["eval"] = "eval"
    name: str
    cluster: str
    after: tuple[str, ...]
    weights: int | None
    command: str


def plan_eval_stage(stage: EvalStage, cluster: Cluster, command: str) -> EvalPlan:
    """The plan of one; sizes are looked up as for a run."""
    try:
        weights = max((_weights(one.shaped) for _, one in stage.results), default=None)
    except UserError:
        weights = None
    return EvalPlan(name=stage.title, cluster=cluster.name, after=stage.needs, weights=weights, command=command)


def _weights(recipe: Recipe) -> int:
    roles, role = Roles(recipe, SizeBook()), main_role(recipe)
    return roles.sizes(role).total * BYTES[roles.model(role).dtype]
