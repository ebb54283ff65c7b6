"""How a role's model was laid out over ranks when a checkpoint was written: what a resume may change."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from distft.config.recipe import Recipe
from distft.config.roles import model_of


@dataclass(frozen=True)
class RoleLayout:
    """Ranks of one role, their ZeRO stage, and what they leave on the host: ``optimizer``, ``parameters``."""

    ranks: int
    zero_stage: int
    offloaded: tuple[str, ...] = ()

    def __str__(self) -> str:
        said = f"{self.ranks} rank{'' if self.ranks == 1 else 's'} at ZeRO stage {self.zero_stage}"
        return f"{said}, {' and '.join(self.offloaded)} offloaded" if self.offloaded else said


def layout_of(recipe: Recipe, role: str, num_ranks: int) -> RoleLayout:
    """The layout of a role on so many ranks."""
    engine = model_of(recipe, role).engine.on(num_ranks)
    where: Iterable[tuple[str, str]] = (
        ("optimizer", engine.offload_optimizer), ("parameters", engine.offload_parameters)
    )  # fmt: skip
    return RoleLayout(num_ranks, engine.zero_stage, tuple(part for part, place in where if place == "cpu"))
