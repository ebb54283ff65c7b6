"""Spikes of the loss or the gradient of a run: who looks for them, and what is left out where a run goes back."""

from __future__ import annotations

from distft.config.recipe import Recipe
from distft.config.roles import answers_in_training, is_rl, main_role, optimizer_of, trained_roles
from distft.controller.progress import Progress
from distft.controller.rollback import Rollback
from distft.tracking.watchdog import Watchdog


def watchdog_of(recipe: Recipe) -> Watchdog:
    """One that looks at every trained role of a run, from its first line on. A loss is expected to fall where training
    goes by given answers alone: of sampled ones it says nothing of how well a policy is."""
    main, roles = main_role(recipe), trained_roles(recipe)
    return Watchdog(
        main,
        [role for role in roles if role != main],
        warm_up=max(optimizer_of(recipe, role).warmup_steps for role in roles),
        falls=not is_rl(recipe) and not answers_in_training(recipe),
    )


def rollback_of(progress: Progress, sign: int, last: int, end: int, role: str, why: str) -> Rollback:
    """What is left out where step ``sign`` was the first bad one and ``last`` the last: their units, which end before
    position ``end``, and those of the step before, whose update may be what made the first one bad."""
    before, start = progress.position_behind(max(0, sign - 2))
    return Rollback(before + 1, last, start, end, role, why)
