"""A rollout in turns: what the policy says is answered by the environment, and both go on from there.

    begin_turns -> [generate -> take_turns] for the samples that go on, until none does -> finish_turns

A turn is a pass of the generator as any other, over longer prompts. What it draws is a function of (seed, iteration,
sample, turn, position): not of which other samples go on, nor of who generates.
"""

from __future__ import annotations

from dataclasses import replace

from distft.clients.generator_group import Generated
from distft.clients.samples import Samples
from distft.experience.rollouts import Sampler, sampling_of


def responses(sampler: Sampler, prompts: Samples, split: str, start: int, iteration: int, number: int = 0) -> Generated:
    """The responses to prompts from position ``start`` of a split, in round ``number`` of an iteration: of one turn
    each, or of as many as the environment makes of it."""
    recipe, data = sampler.recipe, sampler.data
    environment = recipe.rollout.environment
    if environment is None:
        return sampler.generate(prompts, iteration, number).result()
    data.begin_turns(split, start, recipe.rollout.samples_per_prompt, prompts.data).result()
    sampling = replace(sampling_of(recipe), max_new_tokens=environment.max_turn_tokens)
    seconds, going = 0.0, prompts
    for turn in range(environment.max_turns):
        made = sampler.generate(going, iteration, number, sampling=sampling, turn=turn, numbers=going.units).result()
        seconds += made.seconds
        going = data.take_turns((made.responses,)).result()
        if not going.units:
            break
    return data.finish_turns(made.version, seconds).result()
