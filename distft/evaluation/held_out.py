"""Held-out rows through the groups: the loss's own metrics, or for RL the scores of sampled responses."""

from __future__ import annotations

from collections.abc import Mapping

from distft.config.recipe import Recipe
from distft.config.roles import main_role
from distft.experience.experience import logprob_passes
from distft.experience.passes import Samples, evaluate_pass
from distft.experience.preference import reference_pass, with_results
from distft.experience.rollouts import Sampler, data_of
from distft.groups.handles import Group, together

EVALUATION_ITERATION = 0  # training's iterations count from 1, so its draws are never used for evaluation


def loss_metrics(recipe: Recipe, groups: Mapping[str, Group], data: Group, split: str, count: int) -> dict[str, float]:
    """The loss and its metrics on ``count`` units of a split, means over all of them."""
    taken = data.call("batch", split, 0, count).result()
    assert taken.data is not None
    samples = Samples((taken.data,), tuple(taken.report["lengths"]), tuple(taken.report["units"]))
    role, cap = main_role(recipe), recipe.train.max_tokens_per_rank
    if "reference" in groups:
        samples = with_results(samples, [reference_pass(groups["reference"], samples, cap).result()])
    loss, parameters = recipe.algorithm.loss_of(role)
    call = evaluate_pass(groups[role], samples, loss, parameters, cap)
    metrics: dict[str, float] = dict(call.result().report)
    for helper in ("seconds", "num_tokens"):
        metrics.pop(helper, None)
    return metrics


def score_metrics(sampler: Sampler, split: str, count: int) -> dict[str, float]:
    """Scores of responses sampled for ``count`` prompts of a split, and their KL to the reference, if there is one.

    Always the same draws, so that two evaluations differ by the policy alone.
    """
    rollout, _ = sampler.generate(sampler.prompts(split, 0, count), EVALUATION_ITERATION)
    calls = [*logprob_passes(sampler, rollout).values(), *sampler.model_scores(rollout, split, 0)]
    found = [data_of(result) for result in together(*calls)]
    means, scored = sampler.function_scores(rollout, split, 0)
    summary = sampler.data.call("score_summary", data=[*rollout.data, *found, *scored]).result().report
    return {f"objective/{name}": value for name, value in summary.items()} | means
