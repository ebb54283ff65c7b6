"""What it takes to record which experts each token was sampled with: see ``models.routers``. Pure arithmetic."""

from __future__ import annotations

from distft.common.errors import UserError
from distft.config.recipe import Recipe
from distft.config.routing_rules import NO_EXPERTS
from distft.planning.memory import Item, Work
from distft.planning.model_sizes import ModelSizes

# Bytes of an expert's number: in a column, which is of uint8 up to 256 experts, and of int16 beyond; and on the device,
# where it is an index.
KEPT, INDEX = 2, 8


def require_experts(recipe: Recipe, sizes: ModelSizes | None) -> None:
    """Raises UserError where a policy whose ``sizes`` are known has no experts to choose from."""
    if recipe.rollout.router_replay and sizes is not None and not sizes.choices:
        what = NO_EXPERTS.format(model=sizes.family)
        raise UserError(what, where="rollout.router_replay", hint="rollout.router_replay=false")


def routing_items(sizes: ModelSizes, work: Work, share: int) -> list[Item]:
    """Of the policy: a rank's ``share`` of an iteration's tokens, on the host; those of a batch that is sampled, once
    by steps and once put together, and those of a micro-batch, on the device."""
    sampled = 0 if work.generation is None else work.generation.batch * work.generation.length
    return [
        Item("experts of a rollout", share * sizes.choices * KEPT, place="host"),
        Item("experts of a sampled batch", 2 * sampled * sizes.choices * KEPT, "generation"),
        Item("experts of a micro-batch", work.tokens * sizes.choices * INDEX, "forward"),
        Item("experts of a micro-batch", work.tokens * sizes.choices * INDEX, "training"),
    ]
