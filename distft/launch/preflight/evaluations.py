"""What an evaluation can be refused for before a model is loaded, or made: eval stages of pipelines. No torch."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from distft.common.errors import UserError
from distft.config.data import Data, Source
from distft.config.eval_stage import TOXIC_LABEL, EvalKeys
from distft.config.find_method import traits_of
from distft.config.pipeline import EvalStage
from distft.config.pipeline_problems import STAGE
from distft.config.recipe import Recipe
from distft.config.roles import main_role
from distft.config.rollout_settings import rollout_settings
from distft.config.training import Rollout
from distft.data.bad_rows import BadRows, OnBadRow
from distft.data.chat_templates import resolve_template
from distft.data.sources import is_builtin, source_files
from distft.launch.correctness import Criterion
from distft.launch.exemplars import require_exemplars
from distft.launch.judged_rows import Wanted, held_out_list
from distft.launch.named_models import (
    NamedModel,
    find_model,
    read_config_of_adapter,
    require_label,
    require_scalar_head,
)
from distft.launch.preflight.checks import check_source
from distft.planning.model_folders import fetched_folder


def require_judged_here(wanted: Wanted) -> None:
    """What the recipe's method learns can be judged outside its run. Raises UserError."""
    recipe = wanted.recipe
    if recipe is None:
        return
    traits, by, measure = traits_of(wanted.kind()), "", "loss"
    if traits.corrupts or traits.embeds:
        by = "by texts that are corrupted there" if traits.corrupts else "by what is found among its held-out rows"
    elif traits.judges_steps:
        by = "step by step"
    elif recipe.rollout.environment is not None and wanted.unit is None:
        by, measure = "turn by turn", "objective/score"
    if by:
        what = f"{wanted.kind()} is judged within its run, {by}"
        hint = f"the lines of split eval in {recipe.output_dir}/metrics.jsonl have its {measure}"
        hint = f"{hint}, and so has: distft report {recipe.output_dir}"
        alone = "; --rows prompts lets its model answer once" if measure != "loss" else ""
        raise UserError(what, where="eval", hint=f"{hint}{alone}")


def check_eval_stage(stage: EvalStage) -> tuple[str, ...]:
    """Models, rows and what is right are there, as far as they are not still to be made. Returns warnings.

    Raises UserError, EnvironmentFallsShort.
    """
    keys, at = stage.keys, f"stages.{stage.name}"
    try:
        other = _check_models_from_elsewhere(stage)
        recipe = stage.first.recipe if stage.first else other
        wanted = Wanted(recipe, keys.data, keys.split, keys.rows, keys.limit, keys.max_length, keys.seed)
        require_judged_here(wanted)
        kind = wanted.kind()
        _check_results(stage, kind)
        _check_reading(stage)
        _check_sampling(keys, Rollout() if recipe is None else recipe.rollout)
        if keys.correct is not None:
            Criterion(keys.correct)
        shots = [Source(path=path) for path in keys.shots_from]
        notes = list(_check_sources(shots, "sft", "train", lambda _: None, f"{at}.shots_from"))
        _check_shots(keys, shots or (() if recipe is None else recipe.data.train))
        if recipe is not None and not keys.data:
            held_out_list(recipe.data, keys.split)
            return tuple(notes)
        bad = BadRows(recipe.data if recipe is not None else Data(), "test")
        notes += _check_sources(wanted.sources(), kind, "test", bad, f"{at}.data")
    except UserError as error:
        if not error.where.startswith(at):
            error.where = f"{at} ({stage.where}): {_in_keys(error.where)}"
        error.what, error.hint = _in_keys(error.what), _in_keys(error.hint)
        raise
    return tuple(notes)


def _check_sources(sources: Sequence[Source], kind: str, list_name: str, on_bad: OnBadRow, at: str) -> Iterator[str]:
    for number, one in enumerate(sources):
        yield from check_source(one, kind, list_name, on_bad, at=f"{at}.{number}")


def _check_reading(stage: EvalStage) -> None:
    """The chat template, and the adapter unless a stage makes it that is judged, or judged by."""
    keys = stage.keys
    if keys.chat_template is not None:
        resolve_template(keys.chat_template, "chat_template")
    made = [one.recipe.output_dir for _, one in stage.results]
    if keys.adapter is not None and not any(Path(keys.adapter).is_relative_to(folder) for folder in made):
        read_config_of_adapter(Path(keys.adapter).expanduser())


def _check_shots(keys: EvalKeys, sources: Sequence[Source]) -> None:
    """There are so many exemplars, where the rows that they are taken from are on this machine."""
    if keys.shots and sources and all(is_builtin(one) or source_files(one, "train") for one in sources):
        require_exemplars(sources, max(keys.shots))


def _check_sampling(keys: EvalKeys, start: Rollout) -> None:
    settings = rollout_settings(start, keys.sampling())
    if keys.min_new_tokens is not None and keys.min_new_tokens > settings.max_new_tokens:
        what = f"{keys.min_new_tokens} is more than max_new_tokens {settings.max_new_tokens}"
        raise UserError(what, where="min_new_tokens", hint="lower it, or raise max_new_tokens")


def _check_models_from_elsewhere(stage: EvalStage) -> Recipe | None:
    """All that no stage makes are there, and score where they are to. Returns the recipe of the first of ``eval``,
    where no stage makes that. Raises UserError."""
    made = {one.result for _, one in stage.results}
    found: Recipe | None = None
    with tempfile.TemporaryDirectory(prefix="distft-models-") as folder:
        for key, model in stage.keys.named_models():
            if model not in made and not model.startswith(("http://", "https://")):
                try:
                    other = find_model(model, Path(folder))
                except UserError as error:
                    if model in stage.before:
                        error.hint = f"did you mean {STAGE}{model}?"
                    raise
                _check_scorer(key, other, stage.keys)
                found = other.recipe if key == "eval" and model == stage.keys.eval[0] else found
    return found


def _check_scorer(key: str, model: NamedModel, keys: EvalKeys) -> None:
    """What answers are scored by can do so, where it is on this machine."""
    if key == "toxicity":
        require_label(model, keys.toxic_label or TOXIC_LABEL)
    elif key == "reward" and fetched_folder(model.path) is not None:
        require_scalar_head(model)


def _check_results(stage: EvalStage, kind: str) -> None:
    for key, one in stage.results:
        scores = main_role(one.recipe) == "reward"
        if key in ("reward", "toxicity") and not scores:
            hint = "name the stage of a reward model, or of a classifier"
            raise UserError(f"the stage {one.name} makes a model that scores nothing", where=key, hint=hint)
        if key in ("reference", "judge") and scores:
            hint = "name the stage of a language model"
            raise UserError(f"the stage {one.name} makes a model that writes nothing", where=key, hint=hint)
        if key == "eval" and scores and not traits_of(kind).classifies and traits_of(kind).unit.name != "pairs":
            hint = "rows: pairs, with rows that have chosen and rejected answers"
            raise UserError("a reward model is judged by pairs of answers", where=f"eval {one.name}", hint=hint)
    silent = next((one for one in stage.judged if main_role(one.recipe) == "reward"), None)
    for key in ("judge", "toxicity"):
        if silent is not None and getattr(stage.keys, key) is not None:
            what = f"reads answers, and the stage {silent.name} makes a model that writes none"
            raise UserError(what, where=key, hint="name stages of language models in eval")
    labels = traits_of(kind).classifies
    if labels and any(not one.recipe.algorithm.traits.classifies for one in stage.judged):
        raise UserError("only classifiers are judged by labels", where="eval", hint="rows: prompts, or other data")


def _in_keys(text: str) -> str:
    """What names the verb's options names keys."""
    for key in sorted(EvalKeys.model_fields, key=len, reverse=True):  # judge_model before judge
        option = f"--{key.replace('_', '-')}"
        text = text.replace(f"{option} ", f"{key}: ").replace(option, key)
    return text
