"""How samples stand in rows: what does not go with rows that ranks share, and with a row for all samples."""

from __future__ import annotations

from collections.abc import Iterator

from distft.config import roles as facts
from distft.config.models import Model
from distft.config.problem import Problem
from distft.config.recipe import Recipe


def row_rules(recipe: Recipe) -> Iterator[Problem]:
    """Of every role that has a section."""
    for role in facts.roles(recipe):
        if recipe.models.of(role) is None:
            continue
        model = facts.model_of(recipe, role)
        if model.engine.sequence_parallel > 1:
            yield from _shared(recipe, role, model)
        if model.engine.packed:
            yield from against_packing(recipe, role, model)


def _shared(recipe: Recipe, role: str, model: Model) -> Iterator[Problem]:
    """What ranks that compute the same rows do not do."""
    place, by, at = recipe.placement.of(role), model.engine.sequence_parallel, f"models.{role}.engine.sequence_parallel"
    if recipe.algorithm.traits.embeds:
        yield Problem.at(at, "a text's vector is made of whole rows", "1")
    if recipe.algorithm.telling() is not None and role in ("policy", "teacher"):
        yield Problem.at(at, "a teacher's distributions are told and learned of whole rows", "1")
    if recipe.algorithm.embedding_noise() and role in facts.trained_roles(recipe):
        yield Problem.at(at, "noise is drawn for whole rows", "1, or algorithm.neftune_alpha: 0")
    if model.attention not in ("auto", "sdpa"):
        yield Problem.at(f"models.{role}.attention", f"{model.attention} looks at a rank's own slice only", "auto")
    if place.ranks != "auto" and place.with_ is None and place.share is None and place.ranks % by:
        more = -(-place.ranks // by) * by
        yield Problem.at(at, f"{place.ranks} ranks do not part into groups of {by}", f"placement.{role}.ranks={more}")


def against_packing(recipe: Recipe, role: str, model: Model) -> Iterator[Problem]:
    """What needs a row for each sample."""
    at = f"models.{role}.engine.packed"
    if recipe.algorithm.traits.embeds:
        yield Problem.at(at, "a text's vector is pooled from a row of its own", "false")
    elif model.init is not None and model.init.architecture != "llama":
        yield Problem.at(at, f"{model.init.architecture} has an encoder, which sees whole rows", "false")
    if model.engine.sequence_parallel > 1:
        what = "ranks share rows whose positions go on from end to end, which those of a packed row do not"
        yield Problem.at(at, what, f"false, or models.{role}.engine.sequence_parallel: 1")
    if model.num_virtual_tokens:
        yield Problem.at(at, "virtual tokens stand before a row, not before each of its samples", "false")
