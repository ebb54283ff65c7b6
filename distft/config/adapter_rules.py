"""What is trained in place of all weights: what of its keys does not go together, with each other and with the rest."""

from __future__ import annotations

from collections.abc import Iterator

from distft.config.adapters.adalora import AdaLora
from distft.config.adapters.bottleneck import Network
from distft.config.adapters.diff_pruning import DiffPruning
from distft.config.adapters.ia3 import Ia3
from distft.config.adapters.lora import Lora
from distft.config.adapters.prefix import PrefixTuning
from distft.config.adapters.prompt import PromptTuning
from distft.config.adapters.selective import OwnWeights
from distft.config.adapters.virtual_tokens import METHODS, VirtualTokens
from distft.config.models import Model
from distft.config.problem import Problem
from distft.config.recipe import Recipe
from distft.config.roles import samples_in_training


def adapter_rules(recipe: Recipe, role: str, model: Model) -> Iterator[Problem]:
    """Of a role that is trained."""
    at, adapter = f"models.{role}.peft", model.peft
    if isinstance(adapter, VirtualTokens):
        yield from _virtual_tokens(recipe, role, model)
    if isinstance(adapter, PromptTuning):
        yield from _beginning(at, adapter)
    if isinstance(adapter, PrefixTuning):
        yield from _prefix(role, model, adapter)
    if isinstance(adapter, OwnWeights) and model.init is not None:
        what = "what it does not name stays frozen, and this model begins with random weights (init)"
        yield Problem.at(f"{at}.train", what, f"{at}: null, or a path in place of init")
    if isinstance(adapter, Network) and role == recipe.algorithm.traits.main and not recipe.algorithm.traits.answers:
        what = f"{adapter.method} cannot be merged, and what reads a result of {recipe.algorithm.name} reads no adapter"
        yield Problem.at(f"{at}.method", what, f"{at}={{method: lora}}")
    if adapter is not None and getattr(adapter, "target_modules", None) == ():
        every = type(adapter).model_fields["target_modules"].default or "null"
        yield Problem.at(f"{at}.target_modules", "names no layer", f"{every}, or for example [q_proj, v_proj]")
    if isinstance(adapter, Ia3) and (stray := set(adapter.feedforward_modules) - set(adapter.target_modules or ())):
        what = f"{', '.join(sorted(stray))} is not among target_modules"
        yield Problem.at(f"{at}.feedforward_modules", what, f"add it to {at}.target_modules")
    if isinstance(adapter, AdaLora):
        yield from _rank_search(recipe, role, model, adapter)
    if isinstance(adapter, DiffPruning):
        yield from _gates(recipe, role, model, adapter)
    if isinstance(adapter, Lora):
        yield from _low_rank(recipe, role, model, adapter)


def _low_rank(recipe: Recipe, role: str, model: Model, lora: Lora) -> Iterator[Problem]:
    at = f"models.{role}"
    if lora.dropout > 0 and not recipe.algorithm.traits.dropout:
        yield Problem.at(f"{at}.peft.dropout", f"has no effect: {recipe.algorithm.name} trains without dropout", "0")
    if lora.svd_rounds and lora.init != "pissa":
        yield Problem.at(f"{at}.peft.svd_rounds", f"has no effect with init: {lora.init}", "0, or init: pissa")
    if lora.init != "kaiming":
        yield from _part_of_the_weight(at, model, lora)
    if lora.dora and model.quantization is not None and model.engine.zero_stage == 3:
        what = "reads whole matrices, which DeepSpeed does not gather of quantized weights for it"
        yield Problem.at(f"{at}.peft.dora", what, f"{at}.engine.zero_stage: 2, or dora: false")


def _rank_search(recipe: Recipe, role: str, model: Model, adalora: AdaLora) -> Iterator[Problem]:
    at, steps = f"models.{role}", recipe.train.steps
    if recipe.algorithm.traits.sampled or role != recipe.algorithm.traits.main:
        what = f"the search has not been compared in {recipe.algorithm.name}, or not in its {role} model"
        yield Problem.at(f"{at}.peft.method", what, f"{at}.peft={{method: lora}}")
    if model.engine.zero_stage != 0:
        what = "the search reads whole gradients and cuts whole weights, of which ZeRO leaves a rank parts"
        yield Problem.at(f"{at}.engine.zero_stage", what, f"0, or {at}.peft={{method: lora}}")
    if model.dtype != "float32":
        what = f"beside weights in {model.dtype} lie copies in float32, which the search does not cut"
        yield Problem.at(f"{at}.dtype", what, f"float32, or {at}.peft={{method: lora}}")
    if model.quantization is not None:
        what = "the search has not been compared over quantized weights"
        yield Problem.at(f"{at}.quantization", what, f"null, or {at}.peft={{method: lora}}")
    if adalora.target_r >= adalora.r:
        yield Problem.at(f"{at}.peft.target_r", f"leaves nothing to give up of r {adalora.r}", f"less than {adalora.r}")
    if steps is not None and (wrong := adalora.why_no_search(steps)):
        key, what, hint = wrong
        yield Problem.at(f"{at}.peft.{key}", what, hint)


def _gates(recipe: Recipe, role: str, model: Model, diff: DiffPruning) -> Iterator[Problem]:
    at, steps = f"models.{role}", recipe.train.steps
    other = f"{at}.peft={{method: lora}}"
    if not recipe.algorithm.traits.dropout or samples_in_training(recipe):
        what = f"draws gates in every step, and {recipe.algorithm.name} compares what the same weights say"
        yield Problem.at(f"{at}.peft.method", what, other)
    if model.engine.zero_stage == 3:
        what = "gates that are settled lie whole on every rank, as large as the model that ZeRO-3 would shard"
        yield Problem.at(f"{at}.engine.zero_stage", what, f"2, or {other}")
    if model.quantization is not None:
        what = "a sparse difference from rounded weights is none from those that they were"
        yield Problem.at(f"{at}.quantization", what, f"null, or {other}")
    if recipe.evaluation.best is not None:
        what = "its best step may be one before gates are settled, in which nearly all numbers are changed"
        yield Problem.at("evaluation.best", what, f"null (patience too), or {other}")
    if steps is not None and (wrong := diff.why_no_room(steps)):
        key, what, hint = wrong
        yield Problem.at(f"{at}.peft.{key}", what, hint)


def _part_of_the_weight(at: str, model: Model, lora: Lora) -> Iterator[Problem]:
    """What does not go with a start that is taken out of W."""
    other = "or init: kaiming"
    if model.quantization is not None:
        what = f"{lora.init} takes its start out of whole weights; what is left of them would be quantized anew"
        yield Problem.at(f"{at}.peft.init", what, f"kaiming, or {at}.quantization: null")
    if lora.dora:
        yield Problem.at(
            f"{at}.peft.dora", f"the lengths of rows are not those of what {lora.init} leaves", f"false, {other}"
        )
    if lora.dropout > 0:
        what = f"thins out what {lora.init} has taken out of the weight, which is not noise beside it"
        yield Problem.at(f"{at}.peft.dropout", what, f"0, {other}")


def _virtual_tokens(recipe: Recipe, role: str, model: Model) -> Iterator[Problem]:
    at = f"models.{role}.peft"
    traits = recipe.algorithm.traits
    alone = bool(traits.credit) and "value" not in traits.roles
    if role != "policy" or not (alone or recipe.algorithm.name in METHODS):
        what = f"virtual tokens before the {role}'s sequences have not been compared in {recipe.algorithm.name}"
        others = f"{' and '.join(METHODS)} train virtual tokens, and what samples without a value model"
        yield Problem.at(f"{at}.method", what, f"{at}={{method: lora}}; {others}")
    if model.engine.sequence_parallel > 1:
        what = "ranks that share rows have not been compared with virtual tokens before them"
        yield Problem.at(f"models.{role}.engine.sequence_parallel", what, "1")
    assert isinstance(model.peft, VirtualTokens)
    if model.init is not None and model.init.architecture not in model.peft.families:
        what = f"virtual tokens before the sequences of {model.init.architecture} have not been compared"
        yield Problem.at(f"{at}.method", what, f"{at}={{method: lora}}")


def _prefix(role: str, model: Model, prefix: PrefixTuning) -> Iterator[Problem]:
    at = f"models.{role}"
    if model.gradient_checkpointing:
        what = "computes every layer anew without the keys and values that prefix puts before its own"
        yield Problem.at(f"{at}.gradient_checkpointing", what, f"false, or {at}.peft={{method: prompt}}")
    if prefix.encoder_hidden_size is not None and not prefix.projection:
        what = "has no effect without projection"
        yield Problem.at(f"{at}.peft.encoder_hidden_size", what, "null, or projection: true")


def _beginning(at: str, prompt: PromptTuning) -> Iterator[Problem]:
    if (prompt.start == "text") is (prompt.text is None):
        no_effect = f"has no effect at start: {prompt.start}"
        what = "is missing: they start as its tokens" if prompt.text is None else no_effect
        yield Problem.at(f"{at}.text", what, "a sentence that says what is to be done, with start: text")
