"""What scores texts: reward functions of the user's, found by name and held to their answers, servers and judges."""

from __future__ import annotations

import importlib
import inspect
import logging
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np

from distft.batches import Array
from distft.common.errors import UserError, nearest
from distft.config.models import RewardModel
from distft.config.recipe import Recipe
from distft.config.reward_servers import HttpReward, JudgeReward, RewardServer
from distft.data.formats import Content
from distft.data.templates import plain_content
from distft.rollout import rewards
from distft.rollout.http_rewards import scores_by_http
from distft.rollout.json_server import token_of
from distft.rollout.scores import finite_scores, plain_number
from distft.workers.reward_judge import RewardJudge

log = logging.getLogger(__name__)

FUNCTIONS = "models.reward.functions"
_ANSWERS = "it is called as f(prompts, completions, **columns) and answers one finite number for each completion"


@dataclass(frozen=True)
class Texts:
    """What is scored: completions and their prompts ``[B]``, those to a prompt behind each other, so many
    ``samples_per_prompt``, and the rows' other columns."""

    prompts: Sequence[Content]
    completions: Sequence[str]
    columns: Mapping[str, Sequence[Any]]
    samples_per_prompt: int

    @property
    def plain_prompts(self) -> list[str | list[dict[str, str]]]:
        """As others than we take them."""
        return [plain_content(one) for one in self.prompts]


@dataclass(frozen=True)
class Scored:
    """``scores`` float32 ``[B]``; ``metrics``: what else is to be told of them."""

    scores: Array
    metrics: Mapping[str, float] = field(default_factory=dict)


Ask: TypeAlias = Callable[[Texts], Scored]
TryOut: TypeAlias = Callable[[Content, str], str | None]


@dataclass(frozen=True)
class TextReward:
    """One of them. ``name``: what its scores are logged as; ``try_out``: asks about an answer to a prompt, so that
    what would fail is known beforehand; a warning, if there is one."""

    name: str
    weight: float
    ask: Ask
    try_out: TryOut | None = None


def text_rewards(recipe: Recipe) -> list[TextReward]:
    """All that the recipe names, ready to be asked. Raises UserError for a function or a token that is not there."""
    section = recipe.models.reward or RewardModel()
    weights = section.weights or (1.0,) * len(section.functions)
    functions = [
        _of_function(name, weight, section.arguments) for name, weight in zip(section.functions, weights, strict=True)
    ]
    return functions + [_of_server(server, key, recipe) for key, server in section.servers.items()]


def _of_function(address: str, weight: float, all_arguments: Mapping[str, Mapping[str, Any]]) -> TextReward:
    function, name = reward_function(address), address.rpartition(":")[2]
    arguments = all_arguments.get(name, {})
    for key in arguments:
        _require_named(function, key, where=f"models.reward.arguments.{name}.{key}")

    def ask(texts: Texts) -> Scored:
        extra = {**texts.columns, **arguments}
        return Scored(asked(address, function, texts.plain_prompts, texts.completions, extra))

    if address.startswith(f"{rewards.__name__}:"):
        ask(Texts([], [], {"answer": []}, 1))  # a rule of the house says at once what is wrong with its arguments
    return TextReward(name, weight, ask)


def _require_named(function: Callable[..., Any], key: str, *, where: str) -> None:
    """What only ``**columns`` would take in is a word misspelt."""
    parameters = list(inspect.signature(function).parameters.values())[2:]  # behind prompts and completions
    named = [one.name for one in parameters if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)]
    if key not in named:
        close = nearest(key, named)
        hint = f"did you mean {close}?" if close else f"it names: {', '.join(named) or 'none'}"
        raise UserError(f"{function.__name__} names no argument {key}", where=where, hint=hint)


def _of_server(server: RewardServer, where: str, recipe: Recipe) -> TextReward:
    if isinstance(server, JudgeReward):
        return _of_judge(server, where, recipe)
    assert isinstance(server, HttpReward)
    token_of(server, where)

    def ask(texts: Texts) -> Scored:
        scores = scores_by_http(server, where, texts.plain_prompts, texts.completions, texts.columns)
        return Scored(np.array(scores, np.float32))

    return TextReward(server.name, server.weight, ask)


def _of_judge(section: JudgeReward, where: str, recipe: Recipe) -> TextReward:
    judge = RewardJudge(section, where, recipe)

    def ask(texts: Texts) -> Scored:
        scores, shares = judge.scores(texts.prompts, texts.completions, texts.samples_per_prompt)
        return Scored(scores, {f"judge/{what}/{section.name}": share for what, share in shares.items()})

    return TextReward(section.name, section.weight, ask, judge.try_out)


def reward_function(name: str, where: str = FUNCTIONS) -> Callable[..., Any]:
    """``module:function``, importable from the working directory too. Raises UserError, which says ``where`` it was
    named."""
    module_name, _, function_name = name.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        log.exception("reward function %s", name)
        what = f"cannot import {module_name}: {type(error).__name__}: {error}"
        hint = (
            "is it installed here?" if isinstance(error, ImportError) else f"python -c 'import {module_name}' shows it"
        )
        raise UserError(what, where=where, hint=hint) from error
    function = getattr(module, function_name, None)
    if not callable(function):
        known = [key for key, value in vars(module).items() if inspect.isfunction(value)]
        raise UserError(
            f"{module_name} has no function {function_name}",
            where=where,
            hint=f"it has: {', '.join(sorted(known)) or 'no functions'}",
        )
    return function  # type: ignore[no-any-return]


def asked(name: str, function: Callable[..., Any], prompts: Any, completions: Any, extra: Mapping[str, Any]) -> Array:
    """The function's finite number for each completion, float32. Raises UserError, naming it, for an exception in it or
    another answer."""
    where = f"reward function {name}"
    try:
        answers = [plain_number(answer) for answer in function(prompts, completions, **extra)]
    except Exception as error:
        log.exception("%s", where)
        raise UserError(f"raised {type(error).__name__}: {error}", where=where, hint=_ANSWERS) from error
    return np.array(finite_scores(answers, len(completions), where=where, hint=_ANSWERS), np.float32)
