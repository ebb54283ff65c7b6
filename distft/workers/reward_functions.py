"""What scores texts: reward functions of the user's, found by name and held to their answers, and servers."""

from __future__ import annotations

import importlib
import inspect
import logging
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from distft.batches import Array
from distft.common.errors import UserError, nearest
from distft.config.models import HttpReward, RewardModel
from distft.rollout import rewards
from distft.rollout.http_rewards import scores_by_http
from distft.rollout.json_server import token_of
from distft.rollout.scores import finite_scores, plain_number

log = logging.getLogger(__name__)

Ask: TypeAlias = Callable[[Sequence[Any], Sequence[str], Mapping[str, Any]], Array]

FUNCTIONS = "models.reward.functions"
_ANSWERS = "it is called as f(prompts, completions, **columns) and answers one finite number for each completion"


@dataclass(frozen=True)
class TextReward:
    """One of them. ``name``: what its scores are logged as; ``ask``: prompts, completions and columns to a score of
    each completion, float32."""

    name: str
    weight: float
    ask: Ask


def text_rewards(section: RewardModel) -> list[TextReward]:
    """All that the recipe names, ready to be asked. Raises UserError for a function or a token that is not there."""
    weights = section.weights or (1.0,) * len(section.functions)
    functions = [
        _of_function(name, weight, section.arguments) for name, weight in zip(section.functions, weights, strict=True)
    ]
    servers = [_of_server(server, f"models.reward.http.{number}") for number, server in enumerate(section.http)]
    return functions + servers


def _of_function(address: str, weight: float, all_arguments: Mapping[str, Mapping[str, Any]]) -> TextReward:
    function, name = reward_function(address), address.rpartition(":")[2]
    arguments = all_arguments.get(name, {})
    for key in arguments:
        _require_named(function, key, where=f"models.reward.arguments.{name}.{key}")

    def ask(prompts: Sequence[Any], completions: Sequence[str], columns: Mapping[str, Any]) -> Array:
        return asked(address, function, prompts, completions, {**columns, **arguments})

    if address.startswith(f"{rewards.__name__}:"):
        ask([], [], {"answer": []})  # a rule of the house says at once what is wrong with its arguments
    return TextReward(name, weight, ask)


def _require_named(function: Callable[..., Any], key: str, *, where: str) -> None:
    """What only ``**columns`` would take in is a word misspelt."""
    parameters = list(inspect.signature(function).parameters.values())[2:]  # behind prompts and completions
    named = [one.name for one in parameters if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)]
    if key not in named:
        close = nearest(key, named)
        hint = f"did you mean {close}?" if close else f"it names: {', '.join(named) or 'none'}"
        raise UserError(f"{function.__name__} names no argument {key}", where=where, hint=hint)


def _of_server(server: HttpReward, where: str) -> TextReward:
    token_of(server, where)

    def ask(prompts: Sequence[Any], completions: Sequence[str], columns: Mapping[str, Any]) -> Array:
        return np.array(scores_by_http(server, where, prompts, completions, columns), np.float32)

    return TextReward(server.name, server.weight, ask)


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
