"""What is allowed and probably not meant: said before it costs anything, refused by nobody. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from distft import rollout
from distft.config.adapters.prompt import PromptTuning
from distft.config.http_server import MOST_CONNECTIONS
from distft.config.recipe import Recipe
from distft.config.reward_rules import ASKING
from distft.config.role_table import gives_scores
from distft.config.roles import (
    judge_compares,
    judges_asked,
    model_of,
    optimizer_of,
    roles,
    samples_in_training,
    trained_roles,
)
from distft.config.section import Section, Usual
from distft.planning.plan import Plan

_LARGE = 3_000_000_000  # parameters; T5-XL in figure 1 of Lester et al. 2021
_USUAL_ANSWER_S = 3  # of a judge: some 100 tokens by a model of 7 to 70 billion parameters on its own GPUs
FEW_HELD_OUT = 8  # rows below which a held-out metric is mostly chance


def on_models(recipe: Recipe) -> Iterator[str]:
    """Random weights where only trained ones make sense: alignment starts from a model that can already speak."""
    if not recipe.algorithm.traits.aligns:
        return
    for role in roles(recipe):
        model = recipe.models.of(role)
        if model is None or model.init is None:
            continue
        if role == "policy":
            meaning, path = "what it learns is not what the method is for", "run:<output_dir of an sft run>"
        elif gives_scores(role):
            meaning, path = "its scores mean nothing", "run:<output_dir of a reward run>"
        else:
            continue
        yield f"models.{role}: random weights (init): {meaning}; the real thing: models.{role}.path={path}"


def on_numbers(recipe: Recipe) -> Iterator[str]:
    """Numbers of the method, of adapters and of optimizers beyond what the literature recommends."""
    sections: dict[str, Section | None] = {"algorithm": recipe.algorithm}
    for role in trained_roles(recipe):
        sections[f"models.{role}.peft"] = model_of(recipe, role).peft
        own = (given := recipe.models.of(role)) is not None and given.optimizer is not None
        sections[f"models.{role}.optimizer" if own else "optimizer"] = optimizer_of(recipe, role)
    for at, section in sections.items():
        for key, field in type(section).model_fields.items() if section is not None else ():
            value = getattr(section, key)
            for usual in (one for one in field.metadata if isinstance(one, Usual)):
                if not usual.lowest <= value <= usual.highest:
                    yield f"{at}.{key}: {value:g}, where {usual.lowest:g} to {usual.highest:g} is usual"


def on_virtual_tokens(recipe: Recipe, plan: Plan) -> Iterator[str]:
    """Before a small model, where its size is known."""
    policy, memory = recipe.models.policy, plan.memory.get("policy")
    parameters = 0 if memory is None else memory.parameters
    if policy is not None and isinstance(policy.peft, PromptTuning) and 0 < parameters < _LARGE:
        yield (
            f"models.policy.peft: virtual tokens before a model of {parameters / 1e6:,.1f} M parameters: they come "
            f"close to training its weights from some {_LARGE / 1e9:g} billion on (Lester et al. 2021); below, lora "
            "does"
        )


def on_waiting(recipe: Recipe, plan: Plan) -> Iterator[str]:
    """For another node where this machine is all that there is."""
    for key in ("wait_for_nodes", "elastic"):
        if getattr(recipe.recovery, key) and plan.kind == "local":
            yield f"recovery.{key}: has no effect on {plan.cluster}, which is this machine alone"


def on_environment(recipe: Recipe) -> Iterator[str]:
    """A turn of all samples is one call, which counts as hung where every step takes as long as it may."""
    environment, floor = recipe.rollout.environment, recipe.recovery.deadline_floor_s
    if environment is None or (environment.name or "").startswith(f"{rollout.__name__}."):  # ours are quick
        return
    samples, step = recipe.train.global_batch_size * recipe.rollout.samples_per_prompt, environment.step_deadline_s
    at_once = 1 if environment.http is None else environment.http.connections
    rounds, allowed = math.ceil(samples / at_once), ASKING * floor
    if rounds * step <= allowed:
        return
    remedies = [f"recovery.deadline_floor_s={math.ceil(rounds * step / ASKING)}"]
    if environment.http is not None and step <= allowed:
        needed = math.ceil(samples / (allowed // step))
        if needed <= MOST_CONNECTIONS:
            remedies.insert(0, f"rollout.environment.http.connections={needed}")
    yield (
        f"rollout.environment: {samples} samples are asked {at_once} at a time; past an average of "
        f"{allowed / rounds:.2g} s a step (its step_deadline_s: {step:g} s) the call may count as hung, by recovery."
        f"deadline_floor_s ({floor:g} s): where steps are that slow, {' or '.join(remedies)}"
    )


def on_samples(recipe: Recipe) -> Iterator[str]:
    """A number of samples where nothing is sampled to learn from."""
    if recipe.rollout.samples_per_prompt > 1 and not samples_in_training(recipe):
        yield (
            f"rollout.samples_per_prompt: {recipe.algorithm.name} learns from the rows' own answers and samples none; "
            "it counts in distft eval alone"
        )


def on_judges(recipe: Recipe) -> Iterator[str]:
    """Which must be quick, or asked by more connections, to answer all of an iteration, or of an evaluation, in
    time."""
    data, evaluation = recipe.data, recipe.evaluation
    when, num_prompts = "an iteration", recipe.train.global_batch_size
    if (data.eval or data.test or data.holdout) and evaluation.max_samples > num_prompts:
        when, num_prompts = f"an evaluation (max_samples: {evaluation.max_samples})", evaluation.max_samples
    for key, judge, questions in judges_asked(recipe, num_prompts):
        rounds = math.ceil(questions / judge.connections)
        if rounds * _USUAL_ANSWER_S > judge.deadline:
            needed = math.ceil(questions / (judge.deadline // _USUAL_ANSWER_S or 1))
            enough = [f"{key}.connections={needed}, where the endpoint takes so many at once"]
            hints = enough if needed <= MOST_CONNECTIONS else ["a larger deadline"]
            if judge_compares(recipe, judge):
                hints.append(f"{key}.asks=ratings")
            yield (
                f"{key}: {when} has up to {questions} questions for it, {judge.connections} at a time; past an "
                f"average of {judge.deadline / rounds:.2g} s an answer its deadline ({judge.deadline:g} s) ends the "
                f"run: {', or '.join(hints)}"
            )


def on_rows(recipe: Recipe, num_units: Mapping[str, int]) -> Iterator[str]:
    """Fewer rows than a batch has, or held-out rows too few to tell anything; ``num_units`` by split."""
    word = {"sequences": "rows"}.get(recipe.algorithm.traits.unit.name, recipe.algorithm.traits.unit.name)
    there, batch = num_units["train"], recipe.train.global_batch_size
    if there < batch:
        yield f"data.train: {_count(there, word)} where one batch has {batch} (train.global_batch_size)"
    for split in ("eval", "test"):
        held_out = num_units.get(split, 0)
        if 0 < held_out < FEW_HELD_OUT:
            yield f"data.{split}: {_count(held_out, word)} to judge by: what is measured is mostly chance"


def _count(number: int, word: str) -> str:
    return f"only {number} {word.removesuffix('s') if number == 1 else word}"
