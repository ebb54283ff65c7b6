"""Rules on the models: which there are, where each starts, and what its settings do to each other."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

from distft.common.errors import nearest
from distft.config import roles as facts
from distft.config.adapter_rules import adapter_rules
from distft.config.data_rules import said_longest
from distft.config.models import Init, Model, Reference, RewardModel
from distft.config.new_tokens import new_token_rules
from distft.config.problem import Problem
from distft.config.recipe import Recipe
from distft.config.reward_rules import reward_rules
from distft.config.role_table import INHERITING, ROLES, SAME_TOKENS
from distft.config.row_rules import row_rules
from distft.config.sharing_rules import sharing_rules
from distft.config.training import RolePlacement


def _which_models(recipe: Recipe) -> Iterator[Problem]:
    kind, taken = recipe.algorithm.name, facts.known_roles(recipe)
    listed = f"{kind} takes: {', '.join(taken)}"
    for role in ROLES:
        given = recipe.models.of(role)
        if given is not None and role not in taken:
            yield Problem.at(f"models.{role}", f"{kind} has no {role} model", f"{listed}; remove it")
        if getattr(recipe.placement, role) != RolePlacement() and role not in taken:
            yield Problem.at(f"placement.{role}", f"{kind} has no role {role}", f"{listed}; remove it")
    yield from _further(recipe, listed)
    for needed in facts.roles(recipe):
        if recipe.models.of(needed) is None and needed not in INHERITING:
            yield Problem.at(f"models.{needed}", f"is missing: {kind} needs it", _start_hint(needed))


def _further(recipe: Recipe, listed: str) -> Iterator[Problem]:
    """Reward models beside the first: of a method that scores, each placement that of a model."""
    kind, named = recipe.algorithm.name, recipe.models.rewards
    if named and not facts.further_rewards(recipe):
        trained = "reward" in facts.trained_roles(recipe)
        what = "trains one reward model" if trained else "scores nothing"
        yield Problem.at("models.rewards", f"{kind} {what}", f"{listed}; remove it")
    for name in named:
        if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
            hint = "small letters, digits and underscores, a letter first"
            yield Problem.at(f"models.rewards.{name}", "is no name of a role", hint)
    for name in recipe.placement.rewards.keys() - named.keys():
        close = nearest(name, named)
        hint = f"did you mean {close}?" if close else f"named there: {', '.join(named) or 'none'}"
        yield Problem.at(f"placement.rewards.{name}", "no such model is named in models.rewards", hint)


def _starts(recipe: Recipe) -> Iterator[Problem]:
    for role in facts.known_roles(recipe):
        model: Model | None = recipe.models.of(role)
        if model is None:
            continue
        at = f"models.{role}"
        if model.path is not None and model.init is not None:
            yield Problem.at(f"{at}.init", f"is given beside {at}.path", "keep one of the two")
        if model.chat_template is not None and model.init is not None:
            hint = f"{at}.init.tokenizer.chat_template"
            yield Problem.at(f"{at}.chat_template", "is for a model that is there; this one's tokenizer is made", hint)
        if model.path is None and model.init is None and not _may_start_elsewhere(recipe, role, model):
            yield Problem.at(at, "has neither path nor init", _start_hint(role))
        if model.path is not None:
            yield from _path(recipe, at, model.path)
        elif model.trust_remote_code and (model.init is not None or role not in INHERITING):
            yield Problem.at(
                f"{at}.trust_remote_code", "needs a path: there is no remote code without one", "remove it"
            )


def _may_start_elsewhere(recipe: Recipe, role: str, model: Model) -> bool:
    by_functions = isinstance(model, RewardModel) and model.texts_are_scored and role not in facts.trained_roles(recipe)
    return role in INHERITING or by_functions


def _path(recipe: Recipe, at: str, path: str) -> Iterator[Problem]:
    if path.startswith("builtin:"):
        yield Problem.at(
            f"{at}.path", "builtin: names embedded data, not models", "a hub name, a folder or run:<output_dir>"
        )
    if path.startswith("run:"):
        run = path.removeprefix("run:")
        if not run.strip():
            yield Problem.at(f"{at}.path", "run: names no run folder", "for example run:runs/sft-tiny")
        elif run.rstrip("/").removeprefix("./") == recipe.output_dir.rstrip("/").removeprefix("./"):
            yield Problem.at(f"{at}.path", "the run would start from its own result", "change output_dir or the path")
        elif run.rstrip("/").endswith("/final"):
            yield Problem.at(
                f"{at}.path", "run: takes the run folder", f"write run:{run.rstrip('/').removesuffix('/final')}"
            )
    if not path.strip():
        yield Problem.at(f"{at}.path", "must not be empty", "a hub name, a folder or run:<output_dir>")


def _start_hint(role: str) -> str:
    return f"add models.{role}.path (hub name, folder, run:<output_dir>) or models.{role}.init"


def _initial_sizes(recipe: Recipe) -> Iterator[Problem]:
    longest = facts.longest_sequence(recipe)
    for role in facts.known_roles(recipe):
        model: Model | None = recipe.models.of(role)
        if model is None or model.init is None:
            continue
        at, init = f"models.{role}.init", model.init
        yield from _heads(at, init)
        traits = recipe.algorithm.traits
        if init.architecture == "bert" and role != "reward" and traits.corrupts != "masks" and not traits.embeds:
            what = "an encoder writes no answer, nor says of a half one what it is worth"
            yield Problem.at(
                f"{at}.architecture",
                what,
                "llama or t5; bert is for models.reward, and for what learns masked tokens or vectors",
            )
        if init.architecture == "bert" and recipe.algorithm.traits.judges_steps:
            yield Problem.at(f"{at}.architecture", "an encoder scores whole texts, not single steps", "llama")
        if longest > init.max_positions and init.architecture != "t5":
            yield Problem.at(
                f"{at}.max_positions",
                f"{init.max_positions} is less than {said_longest(recipe)}",
                f"at least {longest}",
            )
    yield from _same_vocabulary(recipe)


def _heads(at: str, init: Init) -> Iterator[Problem]:
    if init.hidden_size % init.num_heads:
        near = max(init.hidden_size // init.num_heads, 1) * init.num_heads
        yield Problem.at(
            f"{at}.hidden_size",
            f"{init.hidden_size} does not divide by num_heads {init.num_heads}",
            f"for example {near}",
        )
    elif (init.hidden_size // init.num_heads) % 2 and init.architecture == "llama":
        yield Problem.at(
            f"{at}.num_heads",
            f"a head of {init.hidden_size // init.num_heads} is odd: rotary positions need an even size",
            f"hidden_size {init.num_heads * (init.hidden_size // init.num_heads + 1)}",
        )
    if init.key_value_heads != init.num_heads and init.architecture != "llama":
        yield Problem.at(f"{at}.num_kv_heads", f"{init.architecture} has as many of them as num_heads", "remove it")
    elif init.num_heads % init.key_value_heads:
        fits = [n for n in range(1, init.num_heads + 1) if init.num_heads % n == 0]
        yield Problem.at(
            f"{at}.num_kv_heads",
            f"num_heads {init.num_heads} does not divide by {init.key_value_heads}",
            f"one of: {', '.join(map(str, fits))}",
        )


def _same_vocabulary(recipe: Recipe) -> Iterator[Problem]:
    """What reads the policy's tokens has the policy's vocabulary."""
    policy = recipe.models.policy
    for role in SAME_TOKENS:
        model: Model | None = recipe.models.of(role)
        if policy is None or policy.init is None or model is None or model.init is None:
            continue
        if model.init.vocab_size != policy.init.vocab_size:
            yield Problem.at(
                f"models.{role}.init.vocab_size",
                f"{model.init.vocab_size} differs from the policy's: the {role} reads the policy's tokens",
                f"{policy.init.vocab_size}",
            )


def _precision_and_engine(recipe: Recipe) -> Iterator[Problem]:
    trained = facts.trained_roles(recipe)
    for role in facts.roles(recipe):
        if recipe.models.of(role) is None:
            continue
        model = facts.model_of(recipe, role)
        at, engine = f"models.{role}", model.engine
        if model.attention == "flash_attention_2" and model.dtype == "float32":
            yield Problem.at(f"{at}.attention", "flash_attention_2 does not run in float32", "sdpa, or dtype: bfloat16")
        if engine.offload_parameters == "cpu" and engine.zero_stage != 3:
            yield Problem.at(
                f"{at}.engine.offload_parameters", f"needs zero_stage 3, not {engine.zero_stage}", "zero_stage: 3"
            )
        if engine.hpz_partition_size > 1:
            yield from _second_shards(at, model)
        if engine.offload_optimizer == "cpu" and engine.zero_stage == 0:
            yield Problem.at(f"{at}.engine.offload_optimizer", "needs sharded optimizer state", "zero_stage: 1, 2 or 3")
        yield from _trained(recipe, role, model) if role in trained else _frozen(at, model)


def _second_shards(at: str, model: Model) -> Iterator[Problem]:
    key, engine = f"{at}.engine.hpz_partition_size", model.engine
    if engine.zero_stage != 3:
        yield Problem.at(key, f"needs sharded parameters, and zero_stage is {engine.zero_stage}", "zero_stage: 3, or 1")
    elif engine.offload_parameters == "cpu":
        what = "keeps parameters near each other's devices, and offload_parameters has them wait in host memory"
        yield Problem.at(key, what, f"1, or {at}.engine.offload_parameters: none")
    elif model.quantization is not None:
        what = "has not been tried with a quantized base, whose shards are of packed bytes"
        yield Problem.at(key, what, f"1, or {at}.quantization: null")


def _trained(recipe: Recipe, role: str, model: Model) -> Iterator[Problem]:
    at = f"models.{role}"
    if model.quantization is not None and not model.leaves_base:
        yield Problem.at(
            f"{at}.quantization",
            f"{'this model is' if model.peft is None else 'weights of this model are'} trained, and quantized "
            "weights cannot be",
            f"add {at}.peft: {{method: lora}} to train adapters beside them, or {at}.quantization: null",
        )
    if model.quantization is not None and role == "policy" and facts.keeps_twin(recipe):
        yield Problem.at(
            "rollout.weights",
            "gathered is a copy of whole weights to generate from, which a quantized policy does not have",
            "sharded: it generates from its own (with models.policy.engine.zero_stage: 2 they are whole)",
        )
    yield from adapter_rules(recipe, role, model)


def _frozen(at: str, model: Model) -> Iterator[Problem]:
    if model.peft is not None:
        yield Problem.at(f"{at}.peft", "this model is frozen: it trains no adapter", "remove it")
    if model.optimizer is not None:
        yield Problem.at(f"{at}.optimizer", "this model is frozen: it has no optimizer", "remove it")
    if model.gradient_checkpointing:
        yield Problem.at(f"{at}.gradient_checkpointing", "this model is frozen: it has no backward pass", "remove it")
    if model.engine.offload_optimizer == "cpu":
        yield Problem.at(f"{at}.engine.offload_optimizer", "this model is frozen: it has no optimizer", "remove it")
    if model.engine.zero_stage in (1, 2):
        yield Problem.at(
            f"{at}.engine.zero_stage",
            f"{model.engine.zero_stage} shards what a frozen model does not have",
            "0 (whole on every rank) or 3 (sharded)",
        )


def _reference(recipe: Recipe) -> Iterator[Problem]:
    reference, policy = recipe.models.reference, recipe.models.policy
    if reference is None or policy is None or "reference" not in facts.roles(recipe):
        return
    full = facts.model_of(recipe, "reference")
    same = (full.path, full.init) == (policy.path, policy.init)
    if isinstance(reference, Reference) and reference.differs:
        if same and (full.dtype, full.quantization) == (policy.dtype, policy.quantization):
            yield Problem.at(
                "models.reference.differs", "says true, but the reference is the policy's start", "remove it"
            )
        return
    if not same:
        given = "path" if reference.path else "init"
        yield Problem.at(
            f"models.reference.{given}",
            "the reference is not the policy's start",
            "remove it, or say models.reference.differs: true if that is meant",
        )
    for key in ("dtype", "quantization") if same else ():
        theirs, ours = getattr(full, key), getattr(policy, key)
        if theirs != ours:
            yield Problem.at(
                f"models.reference.{key}",
                f"{_said(theirs)} differs from the policy's {_said(ours)}: "
                "their log-probabilities would differ at step 0",
                f"{_said(ours)}, or differs: true",
            )


def _cached_reference(recipe: Recipe) -> Iterator[Problem]:
    """A reference whose log-probs are kept is the policy as it starts: it has no model and no place of its own."""
    if not recipe.algorithm.caches_reference():
        return
    what = "has no effect: the policy says it all before the first step (algorithm.reference: cached)"
    if recipe.models.reference is not None:
        yield Problem.at("models.reference", what, "remove it, or algorithm.reference=group")
    if recipe.placement.reference != RolePlacement():
        yield Problem.at("placement.reference", what, "remove it, or algorithm.reference=group")


def _renewal(recipe: Recipe) -> Iterator[Problem]:
    """A reference that follows the policy takes over whole weights of the same names."""
    reference, policy = recipe.models.reference, recipe.models.policy
    if recipe.algorithm.renewal() is None or policy is None or "reference" not in facts.roles(recipe):
        return
    at, stays = "algorithm.sync_every", "or algorithm.sync_every=0: it stays"
    if policy.leaves_base:
        what = "a policy of adapters has no whole weights that the reference could follow"
        yield Problem.at(at, what, f"models.policy.peft: null, {stays}")
    elif facts.model_of(recipe, "reference").quantization is not None:
        what = "a quantized reference cannot be written to"
        yield Problem.at(at, what, f"models.reference.quantization: null, {stays}")
    elif reference is not None and reference.differs:
        what = "the reference is meant to be another model than the policy, and does not follow it"
        yield Problem.at(at, what, f"remove models.reference.differs, {stays}")


def _said(value: Any) -> str:
    """A key's value as a recipe writes it."""
    return value if isinstance(value, str) else json.dumps(value and value.model_dump(mode="json"))


MODEL_RULES: tuple[Callable[[Recipe], Iterator[Problem]], ...] = (
    _which_models,
    _starts,
    _initial_sizes,
    _precision_and_engine,
    row_rules,
    _reference,
    _cached_reference,
    _renewal,
    sharing_rules,
    reward_rules,
    new_token_rules,
)
