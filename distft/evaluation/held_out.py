"""Held-out rows through the groups: the loss's own metrics, or for RL the scores of sampled responses."""

from __future__ import annotations

from collections.abc import Mapping

from distft.clients.data_group import DataGroup
from distft.clients.model_group import ModelGroup
from distft.config.recipe import Recipe
from distft.config.roles import main_role
from distft.experience.experience import logprob_passes
from distft.experience.passes import evaluate_pass
from distft.experience.preference import reference_pass, with_baseline
from distft.experience.rollouts import Sampler
from distft.groups.handles import together

EVALUATION_ITERATION = 0  # training's iterations count from 1, so its draws are never used for evaluation


def loss_metrics(
    recipe: Recipe, groups: Mapping[str, ModelGroup], data: DataGroup, split: str, count: int
) -> dict[str, float]:
    """The loss and its metrics on ``count`` units of a split, means over all of them."""
    samples = data.batch(split, 0, count).result()
    role, cap = main_role(recipe), recipe.train.max_tokens_per_rank
    if "reference" in groups:
        samples = samples.with_data(reference_pass(groups["reference"], samples, cap).result())
    if recipe.algorithm.traits.kl_baseline:
        samples = with_baseline(samples, groups, data, recipe.data.max_length, cap)
    loss, parameters = recipe.algorithm.loss_of(role)
    return evaluate_pass(groups[role], samples, loss, parameters, cap).result()


def score_metrics(sampler: Sampler, split: str, count: int) -> dict[str, float]:
    """Scores of responses sampled for ``count`` prompts of a split, and their KL to the reference, if there is one.

    Always the same draws, so that two evaluations differ by the policy alone.
    """
    rollout, _ = sampler.generate(sampler.prompts(split, 0, count), EVALUATION_ITERATION)
    calls = [*logprob_passes(sampler, rollout).values(), *sampler.model_scores(rollout, split, 0)]
    found = together(*calls)
    means, scored = sampler.function_scores(rollout, split, 0)
    summary = sampler.data.score_summary([*rollout.data, *found, *scored]).result()
    return {f"objective/{name}": value for name, value in summary.items()} | means
