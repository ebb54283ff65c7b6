"""What an eval stage of a pipeline takes: one process, and one model in it at a time."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from distft.common.errors import UserError
from distft.config.cluster import Cluster
from distft.config.pipeline import EvalStage
from distft.config.recipe import Recipe
from distft.config.roles import main_role
from distft.planning.footprint import Roles, SizeBook
from distft.planning.memory import BYTES

MIB = 2**20


@dataclass(frozen=True)
class EvalPlan:
    """``weights``: bytes of the largest model that a stage makes, None where its size is not known; ``command``: what
    is done, as it is typed."""

    name: str
    cluster: str
    after: tuple[str, ...]
    weights: int | None
    command: str

    def as_json(self) -> dict[str, Any]:
        """For scripts."""
        return {"kind": "eval", **asdict(self)}

    def draw(self) -> str:
        """For people."""
        size = "size unknown" if self.weights is None else f"{self.weights / MIB:,.0f} MiB of weights"
        of = f" of {', '.join(self.after)}" if self.after else ""
        return (
            f"{self.name} (eval) on {self.cluster}: one process on one node, one model at a time; the largest{of}: "
            f"{size}\n  {self.command}"
        )


def plan_eval_stage(stage: EvalStage, cluster: Cluster, command: str) -> EvalPlan:
    """The plan of one; sizes are looked up as for a run."""
    try:
        weights = max((_weights(one.shaped) for _, one in stage.results), default=None)
    except UserError:
        weights = None
    return EvalPlan(stage.title, cluster.name, stage.needs, weights, command)


def _weights(recipe: Recipe) -> int:
    roles, role = Roles(recipe, SizeBook()), main_role(recipe)
    return roles.sizes(role).total * BYTES[roles.model(role).dtype]
