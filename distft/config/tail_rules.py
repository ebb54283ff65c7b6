"""What goes together with responses that are cut because the others of their batch have ended, and what not."""

from __future__ import annotations

from collections.abc import Iterator

from distft.config import roles as facts
from distft.config.problem import Problem
from distft.config.recipe import Recipe
from distft.config.sampled import Sampled


def tail_rules(recipe: Recipe) -> Iterator[Problem]:
    """The rules of ``rollout.cut_tails``."""
    rollout, tails, algorithm = recipe.rollout, recipe.rollout.cut_tails, recipe.algorithm
    if tails is None:
        return
    if not facts.is_rl(recipe):
        yield Problem.at("rollout.cut_tails", f"has no effect: {algorithm.name} samples no batches", "null")
        return
    if tails.every >= rollout.max_new_tokens:
        yield Problem.at(
            "rollout.cut_tails.every",
            f"{tails.every} is no less than a response may have: {rollout.max_new_tokens} (rollout.max_new_tokens)",
            f"{max(1, rollout.max_new_tokens // 4)}" if rollout.max_new_tokens > 1 else "rollout.cut_tails: null",
        )
    if rollout.environment is not None:
        yield Problem.at(
            "rollout.cut_tails", "is given beside rollout.environment, whose turns end by limits of their own",
            "null (rollout.environment.max_turn_tokens and max_turns)",
        )  # fmt: skip
    if rollout.overlap:
        what = "is given with rollout.overlap: 1: what is sampled ahead is asked for at once, not in parts"
        yield Problem.at("rollout.cut_tails", what, "null, or rollout.overlap: 0")
    if tails.mask and isinstance(algorithm, Sampled) and algorithm.unit_rows() > 1:
        yield Problem.at(
            "rollout.cut_tails.mask",
            f"is true: {algorithm.name} learns from pairs of answers, of which one would be missing",
            "false",
        )  # fmt: skip
    policy = recipe.models.policy
    if policy is not None and policy.init is not None and policy.init.architecture == "t5":
        what = "is given: t5 reads a prompt apart from its answer, which cannot be begun anew in the middle"
        yield Problem.at("rollout.cut_tails", what, "null")
