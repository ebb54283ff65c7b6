"""Every rule between fields of a recipe. Bounds of single fields stand with the fields.

Each rule is a pure function of the recipe that yields what is wrong. Rules look at values only, never at
whether a value was written down, so that a resolved recipe is right exactly when its source is. Here are those
on the run and its placement; those on models and data have a file each, and a method brings its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

from distft.common.errors import nearest
from distft.config import roles as facts
from distft.config.adapters.virtual_tokens import VirtualTokens
from distft.config.data_rules import DATA_RULES
from distft.config.engines import engine_rules
from distft.config.environment_rules import environment_rules
from distft.config.evaluation_rules import evaluation_rules
from distft.config.model_rules import MODEL_RULES
from distft.config.models import Model
from distft.config.optimizers.adafactor import Adafactor
from distft.config.problem import Problem
from distft.config.problems import report
from distft.config.recipe import Recipe
from distft.config.role_table import ROLES
from distft.config.routing_rules import routing_rules
from distft.config.tail_rules import tail_rules
from distft.config.training import DIVERGED_AFTER
from distft.config.yaml_file import Tree


def violations(recipe: Recipe) -> list[Problem]:
    """Everything in the recipe that does not go together."""
    return [problem for rule in _RULES for problem in rule(recipe)]


def check(recipe: Recipe) -> None:
    """Raises one UserError (exit status 2) that lists every violated rule."""
    if problems := violations(recipe):
        raise report(problems, Tree(None))


def _names(recipe: Recipe) -> Iterator[Problem]:
    scheme = recipe.output_dir.split(":", 1)[0]
    if scheme in ("run", "builtin") and ":" in recipe.output_dir:
        yield Problem.at("output_dir", f"must be a folder, not {scheme}:...", recipe.output_dir.split(":", 1)[1])
    elif not recipe.output_dir.strip():
        yield Problem.at("output_dir", "must not be empty", f"for example output_dir: runs/{recipe.name}")
    elif recipe.output_dir.startswith("~"):  # what is known of homes has been written out
        user = recipe.output_dir.split("/", 1)[0]
        yield Problem.at("output_dir", f"no home folder is known for {user}", f"./{recipe.output_dir} is a name here")
    resume = recipe.checkpoint.resume
    close = nearest(resume.lower(), ["auto", "never"])
    if close and resume != close:
        yield Problem.at("checkpoint.resume", f"{resume} is neither auto, never nor a folder", f"did you mean {close}?")
    elif not resume.strip():
        yield Problem.at("checkpoint.resume", "must not be empty", "auto, never, or a checkpoint's folder")


def _length_of_run(recipe: Recipe) -> Iterator[Problem]:
    train = recipe.train
    if train.steps is None and train.epochs is None:
        yield Problem.at("train", "says neither steps nor epochs", "add steps: 100 or epochs: 1")
    if train.steps is not None and train.epochs is not None:
        yield Problem.at("train.epochs", "is given beside train.steps", "keep one of the two")
    if train.steps is None or facts.is_rl(recipe):
        return
    for where, steps in _warmups(recipe):
        if steps >= train.steps:
            yield Problem.at(
                where,
                f"{steps} steps of warm-up leave none of train.steps: {train.steps}",
                f"at most {train.steps - 1}",
            )


def _warmups(recipe: Recipe) -> Iterator[tuple[str, int]]:
    yield "optimizer.warmup_steps", recipe.optimizer.warmup_steps
    for role in facts.trained_roles(recipe):
        model: Model | None = recipe.models.of(role)
        if model is not None and model.optimizer is not None:
            yield f"models.{role}.optimizer.warmup_steps", model.optimizer.warmup_steps


def _placement(recipe: Recipe) -> Iterator[Problem]:
    present = facts.roles(recipe)
    for role in present:
        place = recipe.placement.of(role)
        if place.with_ is not None and place.share is not None:
            yield Problem.at(
                f"placement.{role}.share", "is given beside with", "share: one group; with: two, taking turns"
            )
            continue
        word, other = ("with", place.with_) if place.with_ is not None else ("share", place.share)
        if other is None:
            continue
        at = f"placement.{role}.{word}"
        if other == role:
            yield Problem.at(at, "names the role itself", f"one of: {', '.join(r for r in present if r != role)}")
        elif other not in present:
            yield Problem.at(
                at, f"this run has no {other} group", f"one of: {', '.join(r for r in present if r != role)}"
            )
        else:
            yield from _neighbour(recipe, role, word, other)


def _neighbour(recipe: Recipe, role: str, word: str, other: str) -> Iterator[Problem]:
    place, host = recipe.placement.of(role), recipe.placement.of(other)
    beyond = host.with_ or host.share
    if beyond == role:
        if ROLES.index(role) > ROLES.index(other):  # said once, not from both ends
            yield Problem.at(
                f"placement.{role}.{word}", f"and placement.{other} point at each other", "keep one of the two"
            )
    elif beyond is not None:
        yield Problem.at(f"placement.{role}.{word}", f"{other} itself lives with {beyond}", f"write {word}: {beyond}")
    if place.ranks != "auto" and place.ranks != host.ranks:
        yield Problem.at(
            f"placement.{role}.ranks",
            f"{place.ranks} differs from the {host.ranks} of {other}, whose place it takes",
            f"remove it, or {host.ranks}",
        )


def _optimizers(recipe: Recipe) -> Iterator[Problem]:
    found = [problem for role in facts.trained_roles(recipe) for problem in _optimizer(recipe, role)]
    yield from {problem.path: problem for problem in found}.values()  # of the recipe's own once, whoever takes it


def _optimizer(recipe: Recipe, role: str) -> Iterator[Problem]:
    given: Model | None = recipe.models.of(role)
    own = given is not None and given.optimizer is not None
    at, optimizer = f"models.{role}.optimizer" if own else "optimizer", facts.optimizer_of(recipe, role)
    if optimizer.schedule == "constant" and optimizer.min_ratio > 0:
        yield Problem.at(f"{at}.min_ratio", "has no effect: a constant schedule does not decay", "schedule: cosine")
    try:
        model = facts.model_of(recipe, role)
    except KeyError:  # which is told as a model that is missing
        return
    stage = model.engine.zero_stage
    if isinstance(optimizer, Adafactor) and stage > 0:
        what = f"stage {stage} cuts matrices, and adafactor keeps moments of their whole rows and columns"
        yield Problem.at(f"models.{role}.engine.zero_stage", what, f"models.{role}.engine.zero_stage=0")
    if optimizer.layer_decay < 1 and isinstance(model.peft, VirtualTokens):
        yield Problem.at(f"{at}.layer_decay", "has no effect: virtual tokens lie in no layer", "1")


def _recovery(recipe: Recipe) -> Iterator[Problem]:
    asked = {
        "recovery.wait_for_nodes": recipe.recovery.wait_for_nodes,
        "recovery.elastic": recipe.recovery.elastic,
        "checkpoint.memory_every": recipe.checkpoint.memory_every,
    }
    for key, value in asked.items():
        if value and recipe.recovery.max_restarts == 0:
            what = "has no effect: with recovery.max_restarts: 0 the first failure ends the run"
            yield Problem.at(key, what, "recovery.max_restarts=3")


def _rollback(recipe: Recipe) -> Iterator[Problem]:
    """A checkpoint of before the bad steps must still be there when they are known to be."""
    recovery, checkpoint = recipe.recovery, recipe.checkpoint
    if not recovery.rollback:
        return
    if recipe.rollout.overlap:
        what = "cannot pass over prompts whose responses were sampled ahead, with rollout.overlap: 1"
        yield Problem.at("recovery.rollback", what, "rollout.overlap=0")
    steps = max(DIVERGED_AFTER, recovery.max_skipped_steps + 1)
    keep = math.ceil(steps / checkpoint.every) + 1
    if checkpoint.keep < keep:
        what = (
            f"{checkpoint.keep} of every {checkpoint.every} steps are too few for recovery.rollback: {steps} steps may "
            "pass before they are known to be bad"
        )
        yield Problem.at("checkpoint.keep", what, f"checkpoint.keep={keep}")


def _method(recipe: Recipe) -> Iterator[Problem]:
    yield from recipe.algorithm.rules(recipe)


_RULES: tuple[Callable[[Recipe], Iterator[Problem]], ...] = (
    _names,
    _length_of_run,
    *MODEL_RULES,
    _placement,
    _recovery,
    _rollback,
    engine_rules,
    routing_rules,
    environment_rules,
    tail_rules,
    *DATA_RULES,
    evaluation_rules,
    _optimizers,
    _method,
)
