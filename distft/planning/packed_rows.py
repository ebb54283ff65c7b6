"""Whether samples share rows, where a recipe leaves it open."""

from __future__ import annotations

from distft.common.errors import UserError
from distft.config.load import resolve_path
from distft.config.models import Model
from distft.config.recipe import Recipe
from distft.config.roles import model_of
from distft.config.row_rules import against_packing
from distft.models.families.table import PACKABLE, has_own_code
from distft.planning.footprint import Roles, SizeBook
from distft.planning.model_folders import local_folder, read_config


def with_rows(recipe: Recipe, book: SizeBook) -> Recipe:
    """The recipe with ``engine.packed`` decided of its policy. Raw text is packed, by a model that is known to keep
    documents apart, where nothing else of the recipe speaks against it; other samples only where that is asked for."""
    if not recipe.algorithm.traits.in_blocks:
        return recipe
    model = model_of(recipe, "policy")
    if model.engine.packed is not None:
        return recipe
    against = model.attention == "eager" or any(against_packing(recipe, "policy", model))
    packed = not against and not _runs_own_code(model) and _family(Roles(recipe, book)) in PACKABLE
    engine = model.engine.model_copy(update={"packed": packed})
    return recipe.model_copy(
        update={"models": recipe.models.having({"policy": model.model_copy(update={"engine": engine})})}
    )


def _runs_own_code(model: Model) -> bool:
    """Whether the code of the model is its own, as far as that is known without asking the hub."""
    folder = local_folder(resolve_path(model.path)) if model.trust_remote_code and model.path is not None else None
    return folder is not None and has_own_code(read_config(folder).get("auto_map"))


def _family(roles: Roles) -> str:
    """The policy's type of model; empty where it is not known."""
    try:
        return roles.sizes("policy").family
    except UserError:
        return ""
