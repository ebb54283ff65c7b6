"""What an evaluation can be refused for before a model is loaded, or made: eval stages of pipelines. No torch."""

from __future__ import annotations

import tempfile
from pathlib import Path

from distft.common.errors import UserError
from distft.config.data import Data
from distft.config.eval_stage import EvalKeys
from distft.config.find_method import traits_of
from distft.config.pipeline import EvalStage
from distft.config.recipe import Recipe
from distft.config.roles import main_role
from distft.data.bad_rows import BadRows
from distft.launch.correctness import Criterion
from distft.launch.judged_rows import Wanted, held_out_list
from distft.launch.named_models import find_model
from distft.launch.preflight.checks import check_source


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
        other = _recipe_of_others(stage)
        recipe = stage.first.recipe if stage.first else other
        wanted = Wanted(recipe, keys.data, keys.split, keys.rows, keys.limit, keys.max_length, keys.seed)
        require_judged_here(wanted)
        kind = wanted.kind()
        _check_results(stage, kind)
        if keys.correct is not None:
            Criterion(keys.correct)
        if recipe is not None and not keys.data:
            held_out_list(recipe.data, keys.split)
            return ()
        bad = BadRows(recipe.data if recipe is not None else Data(), "test")
        sources = enumerate(wanted.sources())
        notes = [
            note for number, one in sources for note in check_source(one, kind, "test", bad, at=f"{at}.data.{number}")
        ]
    except UserError as error:
        if not error.where.startswith(at):
            error.where = f"{at} ({stage.where}): {_in_keys(error.where)}"
        error.what, error.hint = _in_keys(error.what), _in_keys(error.hint)
        raise
    return tuple(notes)


def _recipe_of_others(stage: EvalStage) -> Recipe | None:
    """That of the first model, where no stage makes it. All that no stage makes must be there."""
    made = {f"run:{one.recipe.output_dir}" for _, one in stage.results}
    found: Recipe | None = None
    with tempfile.TemporaryDirectory(prefix="distft-models-") as folder:
        for key, model in stage.keys.named_models():
            if model not in made and not model.startswith(("http://", "https://")):
                recipe = find_model(model, Path(folder)).recipe
                found = recipe if key == "eval" and model == stage.keys.eval[0] else found
    return found


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
    labels = traits_of(kind).classifies
    if labels and any(not one.recipe.algorithm.traits.classifies for one in stage.judged):
        raise UserError("only classifiers are judged by labels", where="eval", hint="rows: prompts, or other data")


def _in_keys(text: str) -> str:
    """What names the verb's options names keys."""
    for key in sorted(EvalKeys.model_fields, key=len, reverse=True):  # judge_model before judge
        option = f"--{key.replace('_', '-')}"
        text = text.replace(f"{option} ", f"{key}: ").replace(option, key)
    return text
