"""Held-out rows through the groups: the loss's own metrics, or for RL the scores of sampled responses; and what the
policy answers to their prompts."""

from __future__ import annotations

from collections.abc import Mapping

from distft.clients.data_group import DataGroup
from distft.clients.model_group import ModelGroup
from distft.config.recipe import Recipe
from distft.config.roles import imitates_chosen, main_role, unit_size
from distft.experience.experience import logprob_passes
from distft.experience.passes import evaluate_pass, forward_pass
from distft.experience.preference import frozen_passes, with_baseline
from distft.experience.rollouts import Sampler, answered
from distft.experience.turns import responses
from distft.groups.handles import together
from distft.rollout.generator import Sampling
from distft.workers.reports import Judged, named_by_source

_TOKEN_NLL = "distft.algorithms.losses.sft:Sft"
EVALUATION_ITERATION = 0  # training's iterations count from 1, so its draws are never used for evaluation


def loss_metrics(
    recipe: Recipe, groups: Mapping[str, ModelGroup], data: DataGroup, split: str, count: int
) -> dict[str, float]:
    """The loss and its metrics on ``count`` units of a split, means over all of them."""
    samples = data.batch(split, 0, count).result()
    role, cap = main_role(recipe), recipe.train.max_tokens_per_rank
    samples = samples.with_data(*together(*frozen_passes(groups, recipe.algorithm, samples, cap)))
    if recipe.algorithm.traits.kl_baseline:
        samples = with_baseline(samples, groups, data, recipe.data.max_length, cap)
    loss, parameters = recipe.algorithm.loss_of(role)
    names = recipe.data.told_apart(split)
    return named_by_source(evaluate_pass(groups[role], samples, loss, parameters, cap, len(names)).result(), names)


def score_metrics(sampler: Sampler, split: str, count: int, num_shown: int) -> Judged:
    """Scores of responses sampled for ``count`` prompts of a split, and their KL to the reference, if there is one;
    ``num_shown`` of them to be read.

    Always the same draws, so that two evaluations differ by the policy alone.
    """
    prompts = sampler.prompts(split, 0, count)
    rollout = answered(prompts, responses(sampler, prompts, split, 0, EVALUATION_ITERATION))
    passes = list(logprob_passes(sampler, rollout).values())
    found = together(*passes, *sampler.model_scores(rollout, split, 0))
    means, scored = sampler.with_function_scores(found[len(passes) :], rollout, split, 0)
    data = [*rollout.data, *found[: len(passes)], *scored]
    summary = sampler.data.score_summary(data).result()
    metrics = {f"objective/{name}": value for name, value in summary.items()} | means
    if not (sampler.recipe.evaluation.metrics or num_shown):
        return Judged(metrics, ())
    judged = sampler.data.judge_answers(split, count, num_shown, data).result()
    return Judged(metrics | judged.metrics, judged.samples)


def scored_pairs(recipe: Recipe, groups: Mapping[str, ModelGroup], data: DataGroup, split: str, count: int) -> Judged:
    """The scores of the answers of ``count`` held-out pairs or rankings by a reward model, to be read."""
    role, cap = main_role(recipe), recipe.train.max_tokens_per_rank
    pairs = data.batch(split, 0, count).result()
    scores = forward_pass(groups[role], pairs, "score", cap, reads="last").result()
    return Judged({}, tuple(data.texts(unit_size(recipe) * count, [*pairs.data, scores]).result()))


def general_loss(recipe: Recipe, groups: Mapping[str, ModelGroup], data: DataGroup) -> dict[str, float]:
    """The policy's loss per token of the text of ``evaluation.general``, nats; nothing where the recipe names none."""
    if recipe.evaluation.general is None:
        return {}
    samples, cap = data.general_text().result(), recipe.train.max_tokens_per_rank
    found = evaluate_pass(groups["policy"], samples, _TOKEN_NLL, {}, cap).result()
    return {"val/general_loss": found["loss"]}


def rejected_loss(
    recipe: Recipe, groups: Mapping[str, ModelGroup], data: DataGroup, split: str, count: int
) -> dict[str, float]:
    """The policy's loss per token of the rejected answers among ``count`` units of a split, nats, where it imitates the
    chosen ones alone; nothing where there are no pairs."""
    if not imitates_chosen(recipe):
        return {}
    samples, cap = data.rejected_answers(split, count).result(), recipe.train.max_tokens_per_rank
    if not samples.lengths:
        return {}
    found = evaluate_pass(groups["policy"], samples, _TOKEN_NLL, {}, cap).result()
    return {"val/rejected_loss": found["loss"]}


def answers(sampler: Sampler, split: str, count: int, num_shown: int) -> Judged:
    """The policy's own answers to prompts of a split, the likeliest token each time, as ``distft eval`` takes them:
    of ``count`` rows where ``evaluation.metrics`` wants some, else the ``num_shown`` that are to be read. The generator
    has the weights already.
    """
    recipe = sampler.recipe
    num_asked = count if recipe.evaluation.metrics else num_shown
    asked = sampler.data.questions(split, num_asked).result()
    if not asked.lengths:
        return Judged({}, ())
    settings = Sampling(recipe.rollout.max_new_tokens, recipe.rollout.min_new_tokens, greedy=True)
    rollout = answered(asked, sampler.generate(asked, EVALUATION_ITERATION, sampling=settings).result())
    return sampler.data.judge_answers(split, num_asked, num_shown, rollout.data).result()
