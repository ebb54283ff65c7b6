"""Which runs can send tokens to the experts that they were sampled with (``rollout.router_replay``)."""

from __future__ import annotations

from collections.abc import Iterator

from distft.config.problem import Problem
from distft.config.recipe import Recipe
from distft.config.roles import is_rl

NO_EXPERTS = "is true, and {model} is no mixture of experts: it has no routers whose choice could be replayed"
_AT, _OFF = "rollout.router_replay", "rollout.router_replay: false"


def routing_rules(recipe: Recipe) -> Iterator[Problem]:
    """What does not go with it. That vLLM does not is said in ``engines``; whether a model at a path has experts at all
    the plan finds out."""
    if not recipe.rollout.router_replay:
        return
    policy = recipe.models.policy
    if not is_rl(recipe):
        yield Problem.at(_AT, f"has no effect: {recipe.algorithm.name} samples nothing to learn from", "false")
    elif policy is not None and policy.init is not None:
        yield Problem.at(_AT, NO_EXPERTS.format(model=policy.init.architecture), _OFF)
    elif policy is not None and policy.engine.sequence_parallel > 1:
        what = "is true: of a row that several ranks share none has the experts of the whole"
        yield Problem.at(_AT, what, f"models.policy.engine.sequence_parallel: 1, or {_OFF}")
