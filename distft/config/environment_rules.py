"""What goes together with an environment that answers the policy turn by turn, and what not."""

from __future__ import annotations

import math
from collections.abc import Iterator

from distft.config import roles as facts
from distft.config.http_rules import server_rules
from distft.config.problem import Problem
from distft.config.recipe import Recipe


def environment_rules(recipe: Recipe) -> Iterator[Problem]:
    """The rules of ``rollout.environment``."""
    rollout, environment, evaluation = recipe.rollout, recipe.rollout.environment, recipe.evaluation
    if environment is None:
        return
    if not facts.is_rl(recipe):
        yield Problem.at("rollout.environment", f"has no effect: {recipe.algorithm.name} samples no turns", "remove it")
        return
    if (environment.name is None) == (environment.http is None):
        what = "says neither name nor http" if environment.name is None else "says name and http: one of them answers"
        yield Problem.at("rollout.environment", what, "name: package.module:Class, or http: {url: ...}")
    if environment.http is not None:
        yield from server_rules(environment.http, "rollout.environment.http")
    if environment.step_deadline_s >= recipe.recovery.deadline_floor_s:
        yield Problem.at(
            "rollout.environment.step_deadline_s",
            f"{environment.step_deadline_s:g} s is not before the whole call may count as hung: recovery."
            f"deadline_floor_s ({recipe.recovery.deadline_floor_s:g} s)",
            f"less, or recovery.deadline_floor_s: {math.ceil(2 * environment.step_deadline_s)}",
        )
    if environment.max_turn_tokens > rollout.max_new_tokens:
        yield Problem.at(
            "rollout.environment.max_turn_tokens",
            f"{environment.max_turn_tokens} is more than all turns and observations may have together: "
            f"{rollout.max_new_tokens} (rollout.max_new_tokens)",
            f"at most {rollout.max_new_tokens}",
        )
    if rollout.min_new_tokens > environment.max_turn_tokens:
        yield Problem.at(
            "rollout.min_new_tokens",
            f"{rollout.min_new_tokens} is more than a turn may have: {environment.max_turn_tokens}",
            f"at most {environment.max_turn_tokens} (rollout.environment.max_turn_tokens)",
        )
    if rollout.overlap:
        yield Problem.at(
            "rollout.overlap", "is 1: turns wait for the environment, and are not sampled ahead", "rollout.overlap: 0"
        )
    for key, given in (("reward", recipe.models.reward is not None), ("rewards", bool(recipe.models.rewards))):
        if given:
            yield Problem.at(
                f"models.{key}", "is given beside rollout.environment, which rewards the turns itself",
                f"remove it, and let step answer what it would say (or models.{key}=null)",
            )  # fmt: skip
    if evaluation.metrics:
        yield Problem.at(
            "evaluation.metrics", "holds one answer against the row's, and with rollout.environment there are turns",
            "remove it: objective/score is the environment's reward on held-out rows",
        )  # fmt: skip
    policy = recipe.models.policy
    if policy is not None and policy.init is not None and policy.init.architecture == "t5":
        yield Problem.at(
            "models.policy.init.architecture", "t5 reads a prompt apart from its answer: turns do not fit in",
            "llama",
        )  # fmt: skip
