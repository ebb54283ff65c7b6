"""What generates: the recipes that an engine of its own, beside the policy's ranks, cannot serve."""

from __future__ import annotations

from collections.abc import Iterator

from distft.config.problem import Problem
from distft.config.recipe import Recipe
from distft.config.roles import answers_in_training, is_rl

ENGINES = "rollout"  # the group of engines, and its key in ``placement``
_HF = "rollout.engine: hf"


def not_for_engines(recipe: Recipe) -> Iterator[Problem]:
    """Why vLLM cannot generate for this recipe."""
    policy = recipe.models.policy
    if policy is not None and policy.quantization is not None:
        yield Problem.at("models.policy.quantization", "has no whole weights that vLLM could be sent", _HF)
    if policy is not None and policy.leaves_base:
        yield Problem.at("models.policy.peft", "trains adapters, which are not sent to vLLM yet", _HF)
    if recipe.rollout.router_replay:
        what = "is true: vLLM tells the experts only where it runs a model in a way that takes no sampler from outside"
        yield Problem.at("rollout.router_replay", what, _HF)
    if recipe.rollout.weights == "sharded":
        yield Problem.at(
            "rollout.weights", "is sharded: vLLM generates from whole weights", f"weights: gathered, or {_HF}"
        )


def engine_rules(recipe: Recipe) -> Iterator[Problem]:
    """What of the keys about engines does not go together."""
    place, engine = recipe.placement.rollout, recipe.rollout.engine
    if engine == "vllm" and is_rl(recipe):
        yield from not_for_engines(recipe)
    elif engine == "vllm":
        yield Problem.at("rollout.engine", f"vllm has no effect: {_no_engines(recipe)}", "auto")
    for word, other in (("with", place.with_), ("share", place.share)):
        if other is not None:
            yield Problem.at(
                f"placement.rollout.{word}", "is not to be had: engines have devices of their own", "remove it"
            )
    if recipe.rollout.overlap and (engine == "hf" or not is_rl(recipe)):
        yield Problem.at(
            "rollout.overlap",
            "is 1: hf generates on the policy's ranks, which learn meanwhile" if is_rl(recipe)
            else f"has no effect: {_no_engines(recipe)}",
            "rollout.engine: vllm, or rollout.overlap: 0" if is_rl(recipe) else "0",
        )  # fmt: skip
    if place.ranks != "auto" and (engine == "hf" or not is_rl(recipe)):
        yield Problem.at("placement.rollout.ranks", "has no effect: hf generates on the policy's ranks", "auto")


def _no_engines(recipe: Recipe) -> str:
    """Why a method that learns from given answers has no engines."""
    if answers_in_training(recipe):
        return f"{recipe.algorithm.name} has the policy's own ranks answer"
    return f"{recipe.algorithm.name} does not sample"
