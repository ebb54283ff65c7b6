"""What an encoder-decoder cannot do here: said by the plan, from what its config.json says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from distft.common.errors import UserError, nearest
from distft.config.find_method import built_in_kinds, traits_of
from distft.config.load import resolve_path
from distft.config.recipe import Recipe
from distft.config.roles import has_engines, model_of, roles
from distft.planning.known_models import known_config
from distft.planning.model_folders import local_folder
from distft.planning.model_sizes import read_config

# By model_type: those whose loss, generation and export have been compared with transformers'.
TRIED: Final = ("bart", "blenderbot", "blenderbot-small", "longt5", "marian", "mt5", "pegasus", "t5", "umt5")


def is_encoder_decoder(config: Mapping[str, Any]) -> bool:
    """Whether its prompts go into an encoder, and its answers come out of a decoder."""
    return bool(config.get("is_encoder_decoder"))


def require_tried(config: Mapping[str, Any], where: str) -> None:
    """The encoder-decoder of that config is of a family that has been compared with transformers. Raises UserError."""
    family = str(config.get("model_type"))
    if family not in TRIED:
        close = nearest(family, TRIED)
        raise UserError(
            f"{family} is an encoder-decoder that has not been compared with transformers here",
            where=where,
            hint=f"{close or ', '.join(TRIED)}{' is' if close else ' are'}; or take a decoder",
        )


def require_possible(recipe: Recipe) -> None:
    """What the recipe asks of its encoder-decoders can be had. Raises UserError."""
    for role in roles(recipe):
        model = model_of(recipe, role)
        config = _config(model.path) if model.path else {}
        if not is_encoder_decoder(config):
            continue
        where = f"models.{role}.path"
        if role in ("reward", "value"):
            raise UserError(
                f"{config.get('model_type')} is an encoder-decoder, and a {role} model here is a decoder",
                where=where,
                hint="name a decoder's reward model, or functions: models.reward.functions"
                if role == "reward"
                else f"{_works()}; ppo needs a value model",
            )
        require_tried(config, where)
        if model.quantization is not None:
            raise UserError(
                "the linear layers of an encoder-decoder are not put in four bits",
                where=f"models.{role}.quantization",
                hint=f"models.{role}.quantization=null",
            )
        if role == "policy":
            _require_method(recipe, str(config.get("model_type")))


def _require_method(recipe: Recipe, family: str) -> None:
    if "value" in roles(recipe):
        raise UserError(
            f"{recipe.algorithm.name} needs a value model of the policy's tokens, and {family} has none: it is an "
            "encoder-decoder",
            where="algorithm.kind",
            hint=_works(),
        )
    if recipe.algorithm.traits.in_blocks:
        raise UserError(
            f"{recipe.algorithm.name} learns texts without a prompt, and {family} is an encoder-decoder",
            where="algorithm.kind",
            hint=f"a decoder for raw texts; {_works()}",
        )
    if recipe.evaluation.general is not None:
        what = f"forgetting is measured on texts without a prompt, which {family} cannot read: it is an encoder-decoder"
        raise UserError(what, where="evaluation.general", hint="evaluation.general=null")
    if has_engines(recipe):
        raise UserError(
            f"vLLM has no {family}: it is an encoder-decoder", where="rollout.engine: vllm", hint="rollout.engine=hf"
        )


def _works() -> str:
    """The methods of the house that train one, by their traits."""
    of = {kind: traits_of(kind) for kind in built_in_kinds()}
    kinds = [kind for kind, it in of.items() if it.answers and "value" not in it.roles and not it.in_blocks]
    return f"{', '.join(kinds)} train one"


def _config(path: str) -> Mapping[str, Any]:
    """What is known of the model there without asking the hub."""
    resolved = resolve_path(path)
    folder = local_folder(resolved)
    if folder is None:
        return known_config(resolved) or {}
    return read_config(folder) if (folder / "config.json").is_file() else {}
