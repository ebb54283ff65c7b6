"""Can this run train that family at all? From config.json and the installed transformers' own lists, without torch."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NoReturn

from distft.common.errors import UserError, nearest
from distft.config.adapters.adapter import LayerAdapter
from distft.config.adapters.virtual_tokens import VirtualTokens
from distft.config.data_rules import said_longest
from distft.config.method import Traits
from distft.config.models import Model
from distft.config.recipe import Recipe
from distft.config.role_table import gives_scores
from distft.config.roles import is_rl, longest_sequence, longest_sides
from distft.models.families.table import ENCODERS, encodes, family_of
from distft.planning.encoder_decoders import is_encoder_decoder, require_role
from distft.planning.positions import changing_rope, position_limit

# The kernels of these families read the weights of some layers past their modules, and so past an adapter.
PAST_ADAPTERS = {"out_proj", "conv1d"}
STATE_SPACE = {"mamba", "mamba2", "falcon_mamba", "falcon_h1", "nemotron_h"}
# Three of transformers' lists, from model type to class.
_CAUSAL, _CLASSIFIER = "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES", "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES"
_MASKED = "MODEL_FOR_MASKED_LM_MAPPING_NAMES"


def check_architecture(
    config: Mapping[str, Any], folder: Path, role: str, model: Model, *, traits: Traits | None = None
) -> None:
    """The family is one that transformers has a decoder of, an encoder-decoder that was tried, or one whose own code is
    trusted; an encoder where the method's ``traits`` say that it restores masks or embeds. Raises UserError."""
    where = f"models.{role}.path"
    family = str(config.get("model_type") or "")
    embeds, masks = traits is not None and traits.embeds, traits is not None and traits.corrupts == "masks"
    wanted = family_of(role, config, embeds=embeds)
    own_code = dict(config.get("auto_map") or {})
    if wanted.auto_class in own_code and model.trust_remote_code:
        return
    if is_encoder_decoder(config):
        require_role(config, where, role, model, traits)
        return
    lists = _families()
    if lists is None:  # no transformers on a login node: the run will say it
        return
    if family in lists[_MASKED] and not config.get("is_decoder"):
        if traits is not None and traits.judges_steps and encodes(config):
            what = f"{folder} is an encoder ({family}): it scores whole texts, not single steps"
            raise UserError(what, where=where, hint="take a decoder: Llama, Qwen, Gemma, Mistral, GPT-2, ...")
        if (gives_scores(role) or masks or embeds) and encodes(config):
            return
        _refuse_encoder(family, folder, role, masks=masks, embeds=embeds)
    if family in lists[_CAUSAL] and (embeds or not wanted.scalar or family in lists[_CLASSIFIER]):
        return
    if family in lists[_CAUSAL]:
        raise UserError(
            f"transformers has no scalar head for {family}, so {folder} cannot be a {role} model",
            where=where,
            hint="take Llama, Qwen, Gemma, Mistral, GPT-2, ... for reward and value models",
        )
    if own_code:
        raise UserError(
            f"{folder} comes with code of its own ({', '.join(sorted(own_code.values()))})",
            where=where,
            hint=f"models.{role}.trust_remote_code=true runs it, if you trust it",
        )
    close = nearest(family, lists[_CAUSAL])
    raise UserError(
        f"transformers knows no causal language model of type {family or 'nothing (no model_type)'} ({folder})",
        where=where,
        hint=f"the nearest that it knows is {close}; a newer transformers may know it" if close
        else "a newer transformers may know it",
    )  # fmt: skip


def _refuse_encoder(family: str, folder: Path, role: str, *, masks: bool, embeds: bool) -> NoReturn:
    """transformers loads most of them as causal models all the same: tokens would see the answer they are to learn."""
    what = f"{folder} is an encoder ({family}): its tokens see what follows them, so that it cannot write an answer"
    hint = "take a decoder: Llama, Qwen, Gemma, Mistral, GPT-2, ..."
    if role == "value":
        what += ", nor say of a half one what it is worth"
    if gives_scores(role) or masks or embeds:
        what = f"{folder} is an encoder of type {family}, which is not among those that are known to work here"
        hint = f"take one of type {', '.join(ENCODERS)}{'' if masks else ', or a decoder'}"
    raise UserError(what, where=f"models.{role}.path", hint=hint)


def check_adapters(config: Mapping[str, Any], role: str, model: Model) -> None:
    """The layers that would get an adapter compute by their modules; of virtual tokens, a decoder that takes them.
    Raises UserError."""
    family = str(config.get("model_type"))
    if isinstance(model.peft, VirtualTokens) and family not in model.peft.families:
        raise UserError(
            f"{model.peft.method}: virtual tokens before the sequences of {family} have not been compared with PEFT's",
            where=f"models.{role}.peft.method",
            hint=f"models.{role}.peft={{method: lora}}, or a model of type {', '.join(model.peft.families)}",
        )
    if not isinstance(model.peft, LayerAdapter):
        return
    try:
        wanted = model.peft.layers(family).named
    except LookupError:
        raise UserError(
            f"which layers of {family} {model.peft.method} belongs to is not known",
            where=f"models.{role}.peft.target_modules",
            hint=f"name them; or models.{role}.peft={{method: lora}}, which takes all linear layers",
        ) from None
    if family not in STATE_SPACE:
        return
    if wanted is None or PAST_ADAPTERS & set(wanted):
        raise UserError(
            f"{family} reads the weights of {' and '.join(sorted(PAST_ADAPTERS))} past an adapter",
            where=f"models.{role}.peft.target_modules",
            hint=f"models.{role}.peft.target_modules=[in_proj], or train all of it: models.{role}.peft=null",
        )


def check_positions(config: Mapping[str, Any], role: str, recipe: Recipe) -> Iterator[str]:
    """The run's longest sequence has positions. Raises UserError; yields a warning where rope changes on the way."""
    longest = longest_sequence(recipe)
    limit = position_limit(config)
    if limit is not None and is_encoder_decoder(config):
        _check_sides(config, role, recipe, limit)
    elif limit is not None and longest > limit:
        raise UserError(
            f"{config['model_type']} has learned {limit} positions, a sequence may have {longest} tokens "
            f"({said_longest(recipe)})",
            where=f"models.{role}.path",
            hint=_within(recipe, limit),
        )
    if (crossing := changing_rope(config, longest)) is not None:
        kind, original = crossing
        yield (
            f"models.{role}: its rope ({kind}) changes beyond {original} tokens, and sequences may have {longest} "
            f"({said_longest(recipe)}): all rows are computed as in a sequence of {longest}, short ones too"
        )


def _check_sides(config: Mapping[str, Any], role: str, recipe: Recipe, limit: int) -> None:
    """Encoder and decoder each have positions for the longest prompt and the longest answer; a value model one more,
    for what it says behind all of that. Raises UserError."""
    prompt, answer = longest_sides(recipe)
    room = limit - 1 if family_of(role, config).scalar else limit
    if prompt > limit or answer > room:
        at_most = min(prompt, limit)
        other = f"rollout.max_new_tokens={min(answer, room)}" if is_rl(recipe) else (
            f"data.max_length={at_most + min(answer, room)}"
        )  # fmt: skip
        raise UserError(
            f"{config['model_type']} has learned {limit} positions on each side; a prompt may have {prompt} tokens, "
            f"an answer {answer}",
            where=f"models.{role}.path",
            hint=f"data.max_prompt_length={at_most} {other}, or a model with more positions",
        )


def _within(recipe: Recipe, limit: int) -> str:
    """The keys that make every sequence fit, to paste."""
    if not is_rl(recipe):
        shorter = (
            f" data.max_prompt_length={limit // 2}" if recipe.data.max_prompt_length < recipe.data.max_length else ""
        )
        return f"data.max_length={limit}{shorter} (longer rows are cut), or a model with more positions"
    new = min(recipe.rollout.max_new_tokens, limit // 2)
    return f"data.max_prompt_length={limit - new} rollout.max_new_tokens={new}, or a model with more positions"


@cache
def _families() -> dict[str, frozenset[str]] | None:
    """The model types of transformers' own lists; read, not imported, for an import brings torch with it."""
    found = find_spec("transformers")
    if found is None or found.origin is None:
        return None
    source = Path(found.origin).parent / "models" / "auto" / "modeling_auto.py"
    lists: dict[str, frozenset[str]] = {}
    for node in ast.parse(source.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and isinstance(node.value, ast.Call):
            name = node.targets[0].id
            if name in (_CAUSAL, _CLASSIFIER, _MASKED):
                lists[name] = frozenset(key for key, _ in ast.literal_eval(node.value.args[0]))
    return lists if len(lists) == 3 else None
