"""One PPO iteration's experience: prompts -> responses -> scores, log-probs, values -> advantages.

    prompts --policy.generate--> responses
      `-- together: policy old_logprobs+entropy | reference ref_logprobs | value values | reward score
            `-- data worker: rewards, GAE, whitening --> advantages, returns

Four groups compute at once where the plan gave them devices of their own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from distft.batches import Difference
from distft.config.recipe import Recipe
from distft.experience.passes import Samples, forward_pass, generate_pass
from distft.groups.handles import Call, DataRef, Group, Result, together
from distft.rollout.generator import Sampling


@dataclass(frozen=True)
class Experience:
    """An iteration ready for the updates. ``policy`` and ``value`` carry only the columns their loss reads."""

    policy: Samples
    value: Samples
    rollout: Samples
    scores: tuple[DataRef, ...]
    metrics: dict[str, float]
    score_state: dict[str, float]
    next_kl_coef: float
    reference_difference: Difference
    trainer_difference: Difference


@dataclass(frozen=True)
class PpoGroups:
    """The handles that an iteration needs; ``reward`` is None where functions alone give the scores."""

    data: Group
    policy: Group
    reference: Group
    value: Group
    reward: Group | None


def sampling_of(recipe: Recipe) -> Sampling:
    """The recipe's sampling."""
    rollout = recipe.rollout
    return Sampling(rollout.max_new_tokens, rollout.min_new_tokens, rollout.temperature, rollout.top_p, rollout.top_k)


def take_prompts(
    data: Group, split: str, start: int, count: int, samples_per_prompt: int
) -> tuple[Samples, dict[str, Any]]:
    """``count`` prompts from position ``start`` of a split, each ``samples_per_prompt`` times."""
    result = data.call("prompts", split, start, count, samples_per_prompt).result()
    assert result.data is not None
    report = result.report
    return Samples((result.data,), tuple(report["lengths"]), tuple(report["units"])), report


def roll_out(
    groups: PpoGroups, recipe: Recipe, prompts: Samples, *, seed: int, iteration: int
) -> tuple[Samples, Result]:
    """Responses of the policy's current generator weights, and lengths of prompt and response together."""
    result = generate_pass(
        groups.policy,
        prompts,
        sampling_of(recipe),
        seed=seed,
        iteration=iteration,
        max_batch=recipe.rollout.max_batch_per_rank,
    ).result()
    assert result.data is not None
    lengths = list(prompts.lengths)
    for report in result.reports:
        for sample, length in zip(report["samples"], report["lengths"], strict=True):
            lengths[sample] += length
    return Samples((*prompts.data, result.data), tuple(lengths), prompts.units), result


def build_experience(
    groups: PpoGroups,
    recipe: Recipe,
    rollout: Samples,
    start: int,
    settings: Mapping[str, Any],
) -> Experience:
    """Scores, log-probs, values and from them advantages and returns (NUMERICS: rewards, GAE, whitening).

    ``settings`` are the algorithm's keys with the current ``kl_coef`` and ``score_state``.
    """
    cap, temperature = recipe.train.max_tokens_per_rank, recipe.rollout.temperature
    calls: dict[str, Call] = {
        "policy": forward_pass(groups.policy, rollout, "old_logprobs", cap, temperature=temperature, entropy=True),
        "reference": forward_pass(groups.reference, rollout, "ref_logprobs", cap, temperature=temperature),
        "value": forward_pass(groups.value, rollout, "values", cap),
    }
    if settings["truncated"] == "bootstrap":
        calls["bootstrap"] = forward_pass(groups.value, rollout, "bootstrap_values", cap, reads="last")
    if groups.reward is not None:
        calls["reward"] = score_call(groups, recipe, rollout, "train", start)
    done = dict(zip(calls, together(*calls.values()), strict=True))
    columns = {role: _data(result) for role, result in done.items()}
    function_metrics, scored = function_scores(groups, recipe, rollout, "train", start)
    scores = (*(columns[role] for role in ("reward",) if role in columns), *scored)
    found = [column for role, column in columns.items() if role != "reward"]
    built = groups.data.call("build_ppo", dict(settings), data=[*rollout.data, *found, *scores]).result()
    advantages, report = _data(built), built.report
    return Experience(
        policy=rollout.with_data(columns["policy"], advantages),
        value=rollout.with_data(columns["value"], advantages),
        rollout=rollout,
        scores=scores,
        metrics=report["metrics"] | function_metrics,
        score_state=report["score_state"],
        next_kl_coef=report["next_kl_coef"],
        reference_difference=report["reference_difference"],
        trainer_difference=report["trainer_difference"],
    )


def score_call(groups: PpoGroups, recipe: Recipe, rollout: Samples, split: str, start: int) -> Call:
    """The reward model's pass: over the policy's own tokens where the tokenizers are equal, else over its own.

    How long a text is in another tokenizer's tokens shows in its iteration only. Where one sample alone is above
    ``train.max_tokens_per_rank``, this pass has micro-batches of its length: it has no gradients and no logits to
    hold, and a score of a text without its end would be of another text.
    """
    assert groups.reward is not None
    repeats, cap = recipe.rollout.samples_per_prompt, recipe.train.max_tokens_per_rank
    read = groups.data.call("reward_inputs", split, start, repeats, data=rollout.data).result()
    samples = rollout
    if read.report is not None:
        samples = Samples((_data(read),), tuple(read.report["lengths"]), rollout.units)
        cap = max(cap, *samples.lengths)
    return forward_pass(groups.reward, samples, "score", cap, reads="last")


def function_scores(
    groups: PpoGroups, recipe: Recipe, rollout: Samples, split: str, start: int
) -> tuple[dict[str, float], tuple[DataRef, ...]]:
    """The reward functions' means by name and their scores; nothing where the recipe names none."""
    reward = recipe.models.reward
    if reward is None or not reward.functions:
        return {}, ()
    repeats = recipe.rollout.samples_per_prompt
    result = groups.data.call("function_scores", split, start, repeats, data=rollout.data).result()
    return result.report, (_data(result),)


def _data(result: Result) -> DataRef:
    assert result.data is not None
    return result.data
