"""What an encoder-decoder cannot do here: said by the plan, from what its config.json says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from distft.common.errors import UserError, nearest
from distft.config.data import ANSWER_SCORE
from distft.config.find_method import built_in_kinds, traits_of
from distft.config.load import resolve_path
from distft.config.method import Traits
from distft.config.models import STARTS, Model, ScoringModel
from distft.config.new_tokens import new_tokens
from distft.config.recipe import Recipe
from distft.config.role_table import gives_scores
from distft.config.roles import answers_in_training, has_engines, model_of, over_policys_base, roles
from distft.models.families.table import encodes, has_scoring_head
from distft.planning.known_models import known_config
from distft.planning.model_folders import local_folder, read_config

# By model_type: those whose loss, generation and export have been compared with transformers'.
TRIED: Final = ("bart", "blenderbot", "blenderbot-small", "longt5", "marian", "mt5", "pegasus", "t5", "umt5")
# Those of them of which transformers has a head on the decoder's states.
WITH_VALUES: Final = ("bart", "mt5", "t5", "umt5")
WITH_TWO_VOCABULARIES: Final = ("marian",)


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


def require_values(config: Mapping[str, Any], where: str) -> None:
    """The encoder-decoder of that config has a scalar head in transformers. Raises UserError."""
    require_tried(config, where)
    family = str(config.get("model_type"))
    if family not in WITH_VALUES:
        raise UserError(
            f"transformers has no scalar head for {family}, so that it cannot say what an answer, or half of one, is "
            "worth",
            where=where,
            hint=f"{', '.join(WITH_VALUES)} have one; {_without_values()} need no value model",
        )


def require_scores(config: Mapping[str, Any], where: str, *, labels: bool = False) -> None:
    """An encoder-decoder of that config can be a reward model: its head reads the decoder's state behind the answer.
    ``labels``: it is to tell classes apart, or to judge steps. Raises UserError for that, where transformers has no
    such head, and for a head that was trained elsewhere.
    """
    require_values(config, where)
    family, outputs = config.get("model_type"), list(dict(config.get("id2label") or {}).values())
    if labels:
        raise UserError(
            f"{family} is an encoder-decoder: it scores whole answers here, and has neither labels nor steps",
            where=where,
            hint="take an encoder (BERT, RoBERTa, ModernBERT, DeBERTa) or a decoder",
        )
    if has_scoring_head(config.get("architectures")) and outputs != [ANSWER_SCORE]:
        raise UserError(
            f"this {family} is a classifier as transformers has it, which reads the same whole text in its encoder and "
            "in its decoder; here a score is read with the prompt in the encoder and the answer in the decoder",
            where=where,
            hint="train one with a `reward` recipe, from the model that this one was trained from",
        )


def require_role(config: Mapping[str, Any], where: str, role: str, model: Model, traits: Traits | None) -> None:
    """The encoder-decoder of that config can be the ``model`` of a role in a method of those ``traits``. Raises
    UserError."""
    if traits is not None and traits.embeds:
        raise UserError(
            f"{config.get('model_type')} is an encoder-decoder: its encoder alone is not taken for a model of texts "
            "here",
            where=f"models.{role}",
            hint="take an encoder (BERT, RoBERTa, ModernBERT, DeBERTa) or a decoder",
        )
    if gives_scores(role):
        require_scores(config, where, labels=_has_labels_or_steps(model, traits))
    elif role == "value":
        require_values(config, where)
    else:
        require_tried(config, where)


def _has_labels_or_steps(model: Model, traits: Traits | None) -> bool:
    named = isinstance(model, ScoringModel) and model.label is not None
    return named or (traits is not None and (traits.classifies or traits.judges_steps))


def with_value_start(recipe: Recipe) -> Model:
    """The value model, as ``model_of`` has it; where the reward model, from which it would start, reads otherwise than
    the policy does, it starts from the policy. Raises KeyError for a run without one."""
    value, policy = model_of(recipe, "value"), model_of(recipe, "policy")
    own = recipe.models.value
    if own is not None and (own.path or own.init):
        return value
    found = _config_of(value)
    if not encodes(found) and is_encoder_decoder(found) == is_encoder_decoder(_config_of(policy)):
        return value
    return value.model_copy(update={name: getattr(policy, name) for name in STARTS})


def require_possible(recipe: Recipe) -> None:
    """What the recipe asks of its encoder-decoders can be had, and what needs one, or an encoder, has one. Raises
    UserError."""
    _require_restorer(recipe)
    for role in roles(recipe):
        model = with_value_start(recipe) if role == "value" else model_of(recipe, role)
        config, where = _config_of(model), f"models.{role}.{'init' if model.init is not None else 'path'}"
        if model.extend_vocabulary is not None:
            key = f"models.{role}.extend_vocabulary"
            new_tokens(model.extend_vocabulary, key)  # the file can be read
            require_extensible(config, key)
        if role == "value":
            _require_alike(recipe, config)
        if not is_encoder_decoder(config):
            continue
        require_role(config, where, role, model, recipe.algorithm.traits)
        if role in over_policys_base(recipe):
            raise UserError(
                f"{config.get('model_type')} is an encoder-decoder, which has not been tried over the policy's base",
                where=f"placement.{role}.share",
                hint=f"placement.{role}.share=null placement.{role}.with=policy gives it a group of its own",
            )
        if model.quantization is not None:
            raise UserError(
                "the linear layers of an encoder-decoder are not quantized",
                where=f"models.{role}.quantization",
                hint=f"models.{role}.quantization=null",
            )
        if role == "policy":
            _require_method(recipe, str(config.get("model_type")))


def require_extensible(config: Mapping[str, Any], where: str) -> None:
    """The vocabulary of a model of that config can be extended: it is a decoder, or an encoder-decoder both of whose
    sides have one vocabulary. Raises UserError."""
    family = config.get("model_type")
    if encodes(config):
        what = f"new tokens have been tried in what writes answers alone, and {family} is an encoder"
        raise UserError(what, where=where, hint=f"{where}=null")
    if is_encoder_decoder(config):
        require_tried(config, where)
        if family in WITH_TWO_VOCABULARIES:
            what = f"{family} may have a vocabulary for each of its sides, which one tokenizer would have to extend"
            raise UserError(what, where=where, hint=f"{where}=null")


def _require_restorer(recipe: Recipe) -> None:
    """What restores a corrupted text is a model that can."""
    corrupts = recipe.algorithm.traits.corrupts
    config = _config_of(model_of(recipe, "policy")) if corrupts else {}
    if config and not (is_encoder_decoder(config) if corrupts == "spans" else encodes(config)):
        wanted = "an encoder-decoder (t5, mt5, umt5, longt5)" if corrupts == "spans" else "an encoder (BERT and kin)"
        raise UserError(
            f"{recipe.algorithm.name} is learned by {wanted}, and {config.get('model_type')} is none",
            where="algorithm.kind",
            hint=_on_raw_texts(),
        )


def _require_alike(recipe: Recipe, config: Mapping[str, Any]) -> None:
    """A value model reads the policy's tokens where the policy reads them."""
    policy = _config_of(model_of(recipe, "policy"))
    if policy and config and is_encoder_decoder(policy) != is_encoder_decoder(config):
        one, other = ("an encoder-decoder" if is_encoder_decoder(each) else "a decoder" for each in (policy, config))
        raise UserError(
            f"the policy is {one} ({policy.get('model_type')}), the value model {other} ({config.get('model_type')}), "
            "which would read the policy's tokens otherwise than the policy does",
            where="models.value",
            hint="models.value=null starts it from the policy, its head new",
        )


def _require_method(recipe: Recipe, family: str) -> None:
    if recipe.algorithm.traits.in_blocks:
        raise UserError(
            f"{recipe.algorithm.name} learns texts without a prompt, and {family} is an encoder-decoder",
            where="algorithm.kind",
            hint=f"{_on_raw_texts()}; {_works()}",
        )
    if recipe.algorithm.embedding_noise():
        what = f"{family} is an encoder-decoder: whose embeddings the noise would be on, nobody has compared"
        raise UserError(what, where="algorithm.neftune_alpha", hint="algorithm.neftune_alpha=0")
    if recipe.evaluation.general is not None:
        what = f"forgetting is measured on texts without a prompt, which {family} cannot read: it is an encoder-decoder"
        raise UserError(what, where="evaluation.general", hint="evaluation.general=null")
    if answers_in_training(recipe):
        what = f"answers of its own have not been compared for {family}: it is an encoder-decoder"
        raise UserError(what, where="algorithm.on_policy", hint="algorithm.on_policy=0")
    if recipe.data.ptx:
        what = f"data.ptx is read as texts and answers alike, and nobody has compared that for {family}"
        raise UserError(f"{what}: it is an encoder-decoder", where="data.ptx", hint="data.ptx=[] algorithm.ptx_coef=0")
    if has_engines(recipe):
        raise UserError(
            f"vLLM has no {family}: it is an encoder-decoder", where="rollout.engine: vllm", hint="rollout.engine=hf"
        )


def _works() -> str:
    """The methods of the house that train one, by their traits."""
    of = {kind: traits_of(kind) for kind in built_in_kinds()}
    return f"{', '.join(kind for kind, it in of.items() if it.answers and not it.in_blocks)} train one"


def _on_raw_texts() -> str:
    """Which methods learn raw texts, and with what."""
    of = {kind: traits_of(kind) for kind in built_in_kinds()}
    by = (
        ("a decoder", [kind for kind, it in of.items() if it.in_blocks]),
        ("T5 and its kin", [kind for kind, it in of.items() if it.corrupts == "spans"]),
        ("an encoder", [kind for kind, it in of.items() if it.corrupts == "masks"]),
    )
    said = ", with ".join(f"{model} {' and '.join(kinds)}" for model, kinds in by)
    return f"raw texts are learned with {said}"


def _without_values() -> str:
    """The methods that sample without a value model."""
    of = {kind: traits_of(kind) for kind in built_in_kinds()}
    return ", ".join(kind for kind, it in of.items() if it.sampled and "value" not in it.roles)


def _config_of(model: Model) -> Mapping[str, Any]:
    """What is known of the model without asking the hub."""
    if model.init is not None:
        kind = model.init.architecture
        return {"model_type": kind, "is_encoder_decoder": kind == "t5"}
    if model.path is None:
        return {}
    resolved = resolve_path(model.path)
    folder = local_folder(resolved)
    if folder is None:
        return known_config(resolved) or {}
    return read_config(folder) if (folder / "config.json").is_file() else {}
