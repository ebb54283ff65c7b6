"""Prompts to scored responses: what every method that samples for itself begins with.

prompts --policy.generate--> responses --reward model, reward functions--> scores
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from distft.config.recipe import Recipe
from distft.experience.passes import Samples, forward_pass, generate_pass
from distft.groups.handles import Call, DataRef, Group, Result
from distft.rollout.generator import Sampling


@dataclass(frozen=True)
class Sampler:
    """Who samples and scores: the data worker, and the groups by role; a role that the run has not is not there."""

    recipe: Recipe
    data: Group
    groups: Mapping[str, Group]

    def prompts(self, split: str, start: int, count: int) -> Samples:
        """``count`` prompts from position ``start`` of a split, each ``rollout.samples_per_prompt`` times."""
        repeats = self.recipe.rollout.samples_per_prompt
        result = self.data.call("prompts", split, start, count, repeats).result()
        return Samples((data_of(result),), tuple(result.report["lengths"]), tuple(result.report["units"]))

    def generate(self, prompts: Samples, iteration: int) -> tuple[Samples, Result]:
        """Responses of the policy's current generator weights, and lengths of prompt and response together."""
        recipe = self.recipe
        result = generate_pass(
            self.groups["policy"],
            prompts,
            sampling_of(recipe),
            seed=recipe.seed,
            iteration=iteration,
            max_batch=recipe.rollout.max_batch_per_rank,
        ).result()
        lengths = list(prompts.lengths)
        for report in result.reports:
            for sample, length in zip(report["samples"], report["lengths"], strict=True):
                lengths[sample] += length
        return Samples((*prompts.data, data_of(result)), tuple(lengths), prompts.units), result

    def model_scores(self, rollout: Samples, split: str, start: int) -> list[Call]:
        """The reward model's pass, if there is one: over the policy's own tokens where the tokenizers are equal, else
        over its own.

        How long a text is in another tokenizer's tokens shows in its iteration only. Where one sample alone is above
        ``train.max_tokens_per_rank``, this pass has micro-batches of its length: it has no gradients and no logits to
        hold, and a score of a text without its end would be of another text.
        """
        reward = self.groups.get("reward")
        if reward is None:
            return []
        repeats, cap = self.recipe.rollout.samples_per_prompt, self.recipe.train.max_tokens_per_rank
        read = self.data.call("reward_inputs", split, start, repeats, data=rollout.data).result()
        samples = rollout
        if read.report is not None:
            samples = Samples((data_of(read),), tuple(read.report["lengths"]), rollout.units)
            cap = max(cap, *samples.lengths)
        return [forward_pass(reward, samples, "score", cap, reads="last")]

    def function_scores(self, rollout: Samples, split: str, start: int) -> tuple[dict[str, float], tuple[DataRef, ...]]:
        """The reward functions' means by name and their scores; nothing where the recipe names none."""
        reward = self.recipe.models.reward
        if reward is None or not reward.functions:
            return {}, ()
        repeats = self.recipe.rollout.samples_per_prompt
        result = self.data.call("function_scores", split, start, repeats, data=rollout.data).result()
        return result.report, (data_of(result),)


def sampling_of(recipe: Recipe) -> Sampling:
    """The recipe's sampling."""
    rollout = recipe.rollout
    return Sampling(rollout.max_new_tokens, rollout.min_new_tokens, rollout.temperature, rollout.top_p, rollout.top_k)


def data_of(result: Result) -> DataRef:
    """The columns that a call left in the object store; it must have left some."""
    assert result.data is not None
    return result.data
