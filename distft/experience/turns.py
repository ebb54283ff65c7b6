"""A rollout in turns: what the policy says is answered by the environment, and both go on from there. Or in parts,
until so many responses have ended that the others are cut.

    begin_turns -> [generate -> take_turns] for the samples that go on, until none does -> finish_turns

A turn is a pass of the generator as any other, over longer prompts. What it draws is a function of (seed, iteration,
sample, turn, position): not of which other samples go on, nor of who generates. The parts of a response are of one
turn: together they are what it would have been at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from distft.clients.generator_group import Generated
from distft.clients.samples import Samples
from distft.config.recipe import Recipe
from distft.experience.rollouts import Sampler, sampling_of
from distft.rollout.generator import Sampling


def responses(sampler: Sampler, prompts: Samples, split: str, start: int, iteration: int, number: int = 0) -> Generated:
    """The responses to prompts from position ``start`` of a split, in round ``number`` of an iteration: sampled at
    once, in parts, or in as many turns as the environment makes of it."""
    data, rollout = sampler.data, sampler.recipe.rollout
    if rollout.environment is None and rollout.cut_tails is None:
        return sampler.generate(prompts, iteration, number).result()
    data.begin_turns(split, start, rollout.samples_per_prompt, prompts.data).result()
    seconds, going = 0.0, prompts
    for turn, sampling in _turns(sampler.recipe):
        made = sampler.generate(going, iteration, number, sampling=sampling, turn=turn, numbers=going.units).result()
        seconds += made.seconds
        going = data.take_turns((made.responses,)).result()
        if not going.units:
            break
    return data.finish_turns(made.version, seconds).result()


def _turns(recipe: Recipe) -> Iterator[tuple[int, Sampling]]:
    """Of each pass the turn that it draws for, and how it samples."""
    rollout, whole = recipe.rollout, sampling_of(recipe)
    if rollout.environment is not None:
        for turn in range(rollout.environment.max_turns):
            yield turn, replace(whole, max_new_tokens=rollout.environment.max_turn_tokens)
    elif rollout.cut_tails is not None:
        for first in range(0, whole.max_new_tokens, rollout.cut_tails.every):
            left = whole.max_new_tokens - first
            least = max(0, whole.min_new_tokens - first)
            most = min(rollout.cut_tails.every, left)
            yield 0, replace(whole, max_new_tokens=most, min_new_tokens=least, first=first)
