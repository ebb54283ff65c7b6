"""What an evaluation can be refused for before a model is loaded, or made: eval stages of pipelines. No torch."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from distft.common.errors import UserError
from distft.config.data import Data, Source
from distft.config.eval_stage import OF_ANSWERS, TOXIC_LABEL, EvalKeys, option_of
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
from distft.launch.judgeable import require_judgeable
from distft.launch.judged_rows import Wanted, held_out_list
from distft.launch.named_models import (
    NamedModel,
    find_model,
    read_config_of_adapter,
    require_label,
    require_scalar_head,
    require_speakers,
)
from distft.launch.preflight.checks import check_source
from distft.launch.task_names import Tasks, require_tasks
from distft.planning.model_folders import fetched_folder

_ROLES: Final = {
    "reference": "a language model", "judge": "a language model", "reward": "a reward model",
    "toxicity": "a classifier",
}  # fmt: skip


@dataclass(frozen=True)
class Foreseen:
    """A model that is not here: what a stage makes by its recipe, or one of which nothing is known yet."""

    name: str
    recipe: Recipe | None = None

    @property
    def is_reward_model(self) -> bool:
        """See ``NamedModel``."""
        return self.recipe is not None and main_role(self.recipe) == "reward"

    @property
    def is_masked_lm(self) -> bool:
        """See ``NamedModel``."""
        return self.recipe is not None and self.recipe.algorithm.traits.corrupts == "masks"

    @property
    def embeds(self) -> bool:
        """See ``NamedModel``."""
        return self.recipe is not None and self.recipe.algorithm.traits.embeds

    @property
    def labels(self) -> tuple[str, ...] | None:
        """See ``KnownModel``: a recipe may leave them to its data."""
        if self.recipe is None:
            return None
        algorithm = self.recipe.algorithm
        return (algorithm.head_labels() or None) if algorithm.traits.classifies else ()


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
    at = f"stages.{stage.name}"
    try:
        with tempfile.TemporaryDirectory(prefix="distft-models-") as folder:
            return _checked(stage, list(_models(stage, Path(folder))), at)
    except UserError as error:
        if not error.where.startswith(at):
            error.where = f"{at} ({stage.where}): {_in_keys(error.where)}"
        error.what, error.hint = _in_keys(error.what), _in_keys(error.hint)
        raise


def _checked(stage: EvalStage, models: Sequence[tuple[str, NamedModel | Foreseen]], at: str) -> tuple[str, ...]:
    keys, judged = stage.keys, [model for key, model in models if key == "eval"]
    for key, model in models:
        _check_role(key, model, keys)
    if keys.tasks:
        require_speakers(judged, "eval")
        require_tasks(Tasks(keys.tasks, keys.tasks_from))
        _check_reading(stage)
        return ()
    recipe = judged[0].recipe
    wanted = Wanted(recipe, keys.data, keys.split, keys.rows, keys.limit, keys.max_length, keys.seed)
    require_judged_here(wanted)
    kind = wanted.kind()
    of_answers = {key: _as_written(stage, key) for key in OF_ANSWERS if getattr(keys, key)}
    require_judgeable(judged, kind, of_answers, no_answers=keys.no_answers)
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
    return tuple(notes)


def _check_sources(sources: Sequence[Source], kind: str, list_name: str, on_bad: OnBadRow, at: str) -> Iterator[str]:
    for number, one in enumerate(sources):
        yield from check_source(one, kind, list_name, on_bad, key=f"{at}.{number}")


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


def _models(stage: EvalStage, scratch: Path) -> Iterator[tuple[str, NamedModel | Foreseen]]:
    """(key, model) of all that are named. Raises UserError where one that no stage makes is not there."""
    made = {one.result: one for _, one in stage.results}
    for key, model in stage.keys.named_models():
        if model in made:
            yield key, Foreseen(f"{STAGE}{made[model].name}", made[model].recipe)
        elif model.startswith(("http://", "https://")):
            yield key, Foreseen(model)
        else:
            try:
                found = find_model(model, scratch)
            except UserError as error:
                if model in stage.before:
                    error.hint = f"did you mean {STAGE}{model}?"
                raise
            yield key, Foreseen(model) if fetched_folder(found.path) is None else found


def _check_role(key: str, model: NamedModel | Foreseen, keys: EvalKeys) -> None:
    """What a model is named for beside those that are judged it can do, where it is known."""
    if key not in _ROLES or (isinstance(model, Foreseen) and model.recipe is None):
        return
    if key == "toxicity" and isinstance(model, NamedModel):
        require_label(model, keys.toxic_label or TOXIC_LABEL)
        return
    try:
        if key in ("reference", "judge"):
            require_speakers([model])
        else:
            require_scalar_head(model)
    except UserError as error:
        error.where, error.hint = f"--{key} {model.name}", f"name {_ROLES[key]}, or the stage of one"
        raise


def _as_written(stage: EvalStage, key: str) -> str:
    """The value of a key, the result of a stage by its name."""
    made = {one.result: f"{STAGE}{one.name}" for _, one in stage.results}
    value = getattr(stage.keys, key)
    return str(list(value)) if isinstance(value, tuple) else made.get(value, value)


def _in_keys(text: str) -> str:
    """What names the verb's options names keys."""
    for key in sorted(EvalKeys.model_fields, key=len, reverse=True):  # judge_model before judge
        option = option_of(key)
        text = text.replace(f"{option} ", f"{key}: ").replace(option, key)
    return text
