"""Prompts to scored responses: what every method that samples for itself begins with.

prompts --generator.generate--> responses --reward model, reward functions--> scores
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from distft.clients.data_group import DataGroup
from distft.clients.generator_group import AnsweringGroup, Generated
from distft.clients.model_group import ModelGroup
from distft.clients.samples import Samples
from distft.common.seeding import derive
from distft.config.recipe import Recipe
from distft.config.role_table import gives_scores, score_column
from distft.experience.passes import forward_pass, generate_pass
from distft.groups.handles import Call, DataRef, together
from distft.rollout.generator import Sampling


@dataclass(frozen=True)
class Sampler:
    """Who samples and scores: the data worker, the generator, and the groups by role; one that the run has not is not
    there."""

    recipe: Recipe
    data: DataGroup
    groups: Mapping[str, ModelGroup]
    generator: AnsweringGroup

    def prompts(self, split: str, start: int, count: int) -> Samples:
        """``count`` prompts from position ``start`` of a split, each ``rollout.samples_per_prompt`` times."""
        repeats = self.recipe.rollout.samples_per_prompt
        return self.data.prompts(split, start, count, repeats).result()

    def generate(
        self,
        prompts: Samples,
        iteration: int,
        round_number: int = 0,
        *,
        sampling: Sampling | None = None,
        turn: int = 0,
        numbers: Sequence[int] | None = None,
    ) -> Call[Generated]:
        """Responses of the generator's current weights. Every round of an iteration and every ``turn`` draws anew;
        ``sampling`` in the place of the recipe's; ``numbers`` of the samples where they are not all."""
        recipe = self.recipe
        seed = derive(recipe.seed, "round", round_number) if round_number else recipe.seed
        return generate_pass(
            self.generator,
            prompts,
            sampling or sampling_of(recipe),
            seed=derive(seed, "turn", turn) if turn else seed,
            iteration=iteration,
            max_batch=recipe.rollout.max_batch_per_rank,
            numbers=numbers,
        )

    def model_scores(self, rollout: Samples, split: str, start: int) -> list[Call[DataRef]]:
        """The pass of each reward model, if there is one: over the policy's own tokens where the tokenizers are equal,
        else over its own.

        How long a text is in another tokenizer's tokens shows in its iteration only. Where one sample alone is above
        ``train.max_tokens_per_rank``, this pass has micro-batches of its length: it has no gradients and no logits to
        hold, and a score of a text without its end would be of another text.
        """
        calls, repeats = [], self.recipe.rollout.samples_per_prompt
        for role in filter(gives_scores, self.groups):
            read = self.data.reward_inputs(rollout, role, split, start, repeats).result()
            cap = self.recipe.train.max_tokens_per_rank
            if read is not rollout:
                cap = max(cap, *read.lengths)
            calls.append(forward_pass(self.groups[role], read, score_column(role), cap, reads="last"))
        return calls

    def scores(self, rollout: Samples, split: str, start: int) -> tuple[dict[str, float], tuple[DataRef, ...]]:
        """All scores of a rollout, before anything else is asked of it; see ``with_function_scores``."""
        return self.with_function_scores(together(*self.model_scores(rollout, split, start)), rollout, split, start)

    def with_function_scores(
        self, by_model: Sequence[DataRef], rollout: Samples, split: str, start: int
    ) -> tuple[dict[str, float], tuple[DataRef, ...]]:
        """What models have said of a rollout, and functions and servers say: each one's mean by name, that of a reward
        model only where there are several, and the scores."""
        means: dict[str, float] = {}
        if self.recipe.models.rewards:
            means, weighed = self.data.weigh_scores(by_model).result()
            by_model = [weighed]
        more, by_function = self.function_scores(rollout, split, start)
        return means | more, (*by_model, *by_function)

    def function_scores(self, rollout: Samples, split: str, start: int) -> tuple[dict[str, float], tuple[DataRef, ...]]:
        """Means by name and scores of reward functions and servers; nothing where the recipe names none."""
        reward = self.recipe.models.reward
        if reward is None or not reward.texts_are_scored:
            return {}, ()
        repeats = self.recipe.rollout.samples_per_prompt
        means, scores = self.data.function_scores(rollout, split, start, repeats).result()
        return means, (scores,)


def answered(prompts: Samples, made: Generated) -> Samples:
    """Prompts with their responses: lengths are of both together."""
    lengths = tuple(length + made.lengths[sample] for sample, length in enumerate(prompts.lengths))
    answers = tuple(made.lengths[sample] for sample in range(len(lengths))) if prompts.answers else ()
    return Samples((*prompts.data, made.responses), lengths, prompts.units, answers)


def sampling_of(recipe: Recipe) -> Sampling:
    """The recipe's sampling."""
    rollout = recipe.rollout
    return Sampling(rollout.max_new_tokens, rollout.min_new_tokens, rollout.temperature, rollout.top_p, rollout.top_k)
