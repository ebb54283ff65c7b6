"""Who may live in another's group: a reference that is the base under the policy's adapters, and value and reward
models whose adapters lie over that base too."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from distft.config import roles as facts
from distft.config.adapters.lora import Lora
from distft.config.models import BASES, Model
from distft.config.problem import Problem
from distft.config.recipe import Recipe

_LENT: Final = ("reference", "value", "reward")  # who may compute with the policy's base


def sharing_rules(recipe: Recipe) -> Iterator[Problem]:
    """What speaks against each ``placement.<role>.share``."""
    policy = recipe.models.policy
    for role in facts.roles(recipe):
        place = recipe.placement.of(role)
        host = place.share
        at, turns = f"placement.{role}.share", f"with: {host} gives it a group of its own on the same devices"
        if host is None or host == role or host not in facts.roles(recipe) or place.with_ is not None:
            continue
        if host != "policy" or role not in _LENT:
            yield Problem.at(at, f"{host} has no base that could be the {role} model", turns)
        elif policy is not None and not policy.leaves_base:
            which = "all" if policy.peft is None else "some of"
            what = f"the policy trains {which} its weights: nothing is left of its start"
            yield Problem.at(at, what, f"add adapters "
                             f"(models.policy.peft: {{method: lora}}), or {turns}")  # fmt: skip
        elif role != "reference":
            yield from _over_the_base(recipe, role, turns)
        elif recipe.models.reference is not None and recipe.models.reference.differs:
            yield Problem.at(at, "the reference is meant to differ from the policy's start", turns)
        else:
            yield from _no_engine_of_its_own(recipe)


def _no_engine_of_its_own(recipe: Recipe) -> Iterator[Problem]:
    alone = recipe.model_copy(update={"models": recipe.models.model_copy(update={"reference": None})})
    said, inherited = facts.model_of(recipe, "reference"), facts.model_of(alone, "reference")
    for key in ("attention", "kernels", "engine"):
        if getattr(said, key) != getattr(inherited, key):
            what = "has no effect: the reference is the policy's own base (placement.reference.share)"
            yield Problem.at(f"models.reference.{key}", what, "remove it")


def _over_the_base(recipe: Recipe, role: str, turns: str) -> Iterator[Problem]:
    """What speaks against a value or reward model over the policy's base: both have adapters of a kind that has been
    compared so, and compute alike."""
    own, policy = facts.model_of(recipe, role), facts.model_of(recipe, "policy")
    alike = {key: (getattr(own, key), getattr(policy, key)) for key in BASES}
    if role == "value":
        alike |= {key: (getattr(own, key), getattr(policy, key)) for key in ("path", "init")}
    else:  # without an optimizer there is less to shard
        alike["engine"] = facts.frozen(own.engine), facts.frozen(policy.engine)
        alike["quantization"] = own.quantization, policy.quantization
    for key, (mine, its) in alike.items():
        if mine != its:
            what = f"is not the policy's, over whose base the {role} model lies (placement.{role}.share)"
            yield Problem.at(f"models.{role}.{key}", what, f"remove it, or {turns}")
    if role == "reward":
        yield from _adapter_in_its_folder(own, policy, turns)
    else:
        yield from _untried(role, own)
    yield from _untried("policy", policy)


def _adapter_in_its_folder(reward: Model, policy: Model, turns: str) -> Iterator[Problem]:
    """A reward model is not trained here: its adapter lies beside it, as the run left it that trained it."""
    at = "placement.reward.share"
    if reward.path is None:
        what = "is the adapter beside a finished reward model, and models.reward.path names none"
        yield Problem.at(at, what, f"models.reward.path: run:OUTPUT_DIR, or {turns}")
    elif policy.path is None:
        what = "the policy starts from nothing, and no adapter has been trained over that"
        yield Problem.at(at, what, f"models.policy.path: what the reward model was trained from, or {turns}")


def _untried(role: str, model: Model) -> Iterator[Problem]:
    at, engine = f"models.{role}", model.engine
    beside = "has not been tried where several models lie over the policy's base (placement.<role>.share)"
    if not isinstance(model.peft, Lora):
        method = "null" if model.peft is None else model.peft.method
        yield Problem.at(f"{at}.peft", f"{method} {beside}", "{method: lora}")
    elif model.peft.dora or model.peft.init != "kaiming":
        key, plain = ("dora", "false") if model.peft.dora else ("init", "kaiming")
        yield Problem.at(f"{at}.peft.{key}", beside, plain)
    if model.quantization is not None:
        yield Problem.at(f"{at}.quantization", beside, "null")
    if model.extend_vocabulary is not None:
        yield Problem.at(f"{at}.extend_vocabulary", beside, "null")
    if model.kernels == "liger":
        yield Problem.at(f"{at}.kernels", f"liger {beside}", "none")
    if engine.sequence_parallel > 1:
        yield Problem.at(f"{at}.engine.sequence_parallel", beside, "1")
    if engine.packed:
        yield Problem.at(f"{at}.engine.packed", beside, "false")
    for key in ("offload_parameters", "offload_optimizer"):
        if getattr(engine, key) != "none":
            yield Problem.at(f"{at}.engine.{key}", beside, "none")
    if engine.hpz_partition_size > 1:
        yield Problem.at(f"{at}.engine.hpz_partition_size", beside, "1")
    if model.init is not None and model.init.architecture == "t5":
        yield Problem.at(f"{at}.init.architecture", f"an encoder-decoder {beside}", "llama")
