"""What a W&B run is told of its run beyond the recipe: the plan, and what DeepSpeed was given."""

from __future__ import annotations

from typing import Any

from distft.config.recipe import Recipe
from distft.config.roles import model_of, optimizer_of, roles, trained_roles
from distft.engine.settings import deepspeed_settings
from distft.planning.plan import Plan


def more_config(recipe: Recipe, plan: Plan) -> dict[str, Any]:
    """``plan``, and ``deepspeed`` by role. A frozen model that is not sharded has no engine, nor has a role that lives
    in another's group."""
    found = {}
    for role in (group for group in plan.groups if group in roles(recipe)):
        model, trained = model_of(recipe, role), role in trained_roles(recipe)
        if trained or model.engine.zero_stage == 3:
            # At stage 0 gradients are clipped by us.
            clipped = optimizer_of(recipe, role).max_grad_norm if trained and model.engine.zero_stage else 0.0
            found[role] = deepspeed_settings(model.engine, model.dtype, max_grad_norm=clipped, trained=trained)
    return {"plan": plan.model_dump(mode="json"), "deepspeed": found}
