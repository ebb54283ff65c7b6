"""Texts that become tokens of a model's vocabulary (``models.<role>.extend_vocabulary``): which they are, and where
they may be asked for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from distft.common.errors import UserError
from distft.config import roles as facts
from distft.config.models import Model
from distft.config.problem import Problem
from distft.config.recipe import Recipe
from distft.config.role_table import INHERITING


def new_tokens(given: str | Sequence[str], where: str) -> tuple[str, ...]:
    """The texts as they are listed, or the lines of that file, as they stand but for the end of the line; blank ones
    are passed over. ``where``: the recipe's key.

    Raises UserError for a file that cannot be read as UTF-8 or has none, and for texts that no recipe may list.
    """
    if not isinstance(given, str):
        return tuple(given)
    try:
        lines = Path(given).read_text(encoding="utf-8").split("\n")
    except (OSError, ValueError) as error:
        hint = f"a file with one text a line, or a list: {where}=[word,another]"
        raise UserError(f"{given} cannot be read: {error}", where=where, hint=hint) from error
    texts = tuple(line for line in (line.removesuffix("\r") for line in lines) if line.strip())
    for wrong in _wrong(texts):
        raise UserError(f"{given}: {wrong}", where=where, hint="a file with one text a line, each once")
    return texts


def new_token_rules(recipe: Recipe) -> Iterator[Problem]:
    """What of ``extend_vocabulary`` has no effect, or not the one that is meant."""
    for role in facts.known_roles(recipe):
        model: Model | None = recipe.models.of(role)
        if model is None or model.extend_vocabulary is None:
            continue
        at = f"models.{role}.extend_vocabulary"
        if not isinstance(model.extend_vocabulary, str):
            for wrong in _wrong(model.extend_vocabulary):
                yield Problem.at(at, wrong, "each text once, or remove the key")
        yield from _of_start(role, model, at)
        if role not in facts.trained_roles(recipe) and role != "reference":
            yield Problem.at(at, "this model is frozen: it never learns what new tokens mean", "remove it")
        elif model.peft is not None:
            yield Problem.at(
                at,
                "adapters leave the rows of new tokens as they begin, all alike",
                f"models.{role}.peft: null; adapters can start from what such a run has made "
                f"(models.{role}.path=run:<output_dir>)",
            )

    yield from _same_as_the_policys(recipe)


def _same_as_the_policys(recipe: Recipe) -> Iterator[Problem]:
    """What reads the policy's tokens and begins in its folder has its new ones, too. Whether another folder has is seen
    when its tokenizer is read."""
    policy = recipe.models.policy
    for role in INHERITING:
        model: Model | None = recipe.models.of(role)
        if policy is None or model is None or model.path is None or model.path != policy.path:
            continue
        if model.extend_vocabulary != policy.extend_vocabulary:
            yield Problem.at(
                f"models.{role}.extend_vocabulary",
                f"is not the policy's, whose tokens the {role} reads",
                f"the policy's, or remove models.{role}.path: it begins as the policy does",
            )


def _of_start(role: str, model: Model, at: str) -> Iterator[Problem]:
    """The model begins from something of its own that has a vocabulary already."""
    if model.init is not None:
        larger = f"a larger models.{role}.init.vocab_size"
        yield Problem.at(at, "a model from nothing has its tokenizer made on its data", f"remove it, or {larger}")
    elif model.path is None and role in INHERITING:
        yield Problem.at(at, f"has no effect: the {role} begins as another model does, with its tokens", "remove it")


def _wrong(texts: Sequence[str]) -> Iterator[str]:
    if not texts:
        yield "names no text"
    seen = set()
    for number, text in enumerate(texts, 1):
        if not text.strip():
            yield f"text {number} is empty"
        elif text in seen:
            yield f"{text!r} stands there twice"
        seen.add(text)
