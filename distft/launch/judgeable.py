"""What ``distft eval`` refuses by what is known of models before one is loaded, or made. No torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from distft.common.errors import UserError
from distft.config.eval_stage import OF_ANSWERS, option_of, without_answers
from distft.config.find_method import traits_of
from distft.launch.named_models import KnownModel, require_speakers


def require_judgeable(
    models: Sequence[KnownModel], kind: str, of_answers: Mapping[str, str], *, no_answers: bool
) -> None:
    """The models can be judged by the rows of a kind of algorithm, and write what is read. ``of_answers``: what is
    asked for that is about answers, by its key (``OF_ANSWERS``), as it was typed. Raises UserError."""
    for key, what, hint in without_answers(of_answers, len(models), no_answers=no_answers, typed=option_of):
        raise UserError(what, where=f"{option_of(key)} {of_answers[key]}", hint=hint)
    traits = traits_of(kind)
    silent = next((one.name for one in models if one.is_reward_model), None)
    for key in (key for key in OF_ANSWERS if key in of_answers):
        does, where = OF_ANSWERS[key], f"{option_of(key)} {of_answers[key]}"
        if silent is not None:
            raise UserError(f"{does}, and {silent} writes none", where=where, hint="name language models in eval")
        if traits.classifies:
            raise UserError(f"{does}, and the rows want labels", where=where, hint="--rows prompts, or other --data")
    if traits.classifies:
        _require_classifiers(models)
        return
    if silent is not None and traits.unit.name != "pairs":
        hint = "--rows pairs, with rows that have chosen and rejected answers"
        raise UserError("a reward model is judged by pairs of answers", where=f"eval {silent}", hint=hint)
    require_speakers([model for model in models if not model.is_reward_model], "eval")


def _require_classifiers(models: Sequence[KnownModel]) -> None:
    for one in models:
        if one.labels is not None and len(one.labels) < 2:
            hint = "train one with a `classification` recipe, or judge by others: --rows prompts, or other --data"
            raise UserError("only classifiers are judged by labels", where=f"eval {one.name}", hint=hint)
