"""``distft fetch``: what a recipe takes from the hub comes onto this machine, while there is a network. A run finds it
in the caches of the hub's own libraries (``HF_HOME``)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from distft.common.errors import EnvironmentFallsShort, UserError
from distft.config.data import Source
from distft.config.eval_stage import EvalKeys
from distft.config.pipeline import Pipeline, Stage
from distft.config.recipe import Recipe
from distft.config.roles import model_of, roles
from distft.data.source_names import general_source
from distft.data.sources import hub_dataset, is_builtin, source_files
from distft.launch.preflight.hub import OFFLINE, check_on_hub, in_datasets_cache, is_offline
from distft.launch.preflight.models import check_folder, not_here, require_own_copy
from distft.planning.model_folders import fetched_folder

_ELSEWHERE = ("run:", "stage:", "http://", "https://")  # paths that name nothing of the hub
_NO_HUB = "run it where there is a network, with HF_HOME on a disk that the nodes without one see"


@dataclass(frozen=True)
class Wanted:
    """Something of the hub that a recipe names. ``where``: the key that does; ``list_name``: of a data set the list
    that it stands in."""

    kind: Literal["model", "dataset"]
    name: str
    where: str
    source: Source | None = None
    list_name: str = ""

    @property
    def is_here(self) -> bool:
        """Whether it is on this machine already: a model whole, a data set in some of its subsets."""
        if self.kind == "model":
            return fetched_folder(self.name) is not None
        return in_datasets_cache(self.name)


def wanted_by(recipe: Recipe) -> list[Wanted]:
    """The models and data of a recipe that are no folder or file here, each once. Raises UserError for what can only be
    a folder or a file, and is none."""
    return _each_once([*_models(recipe), *_data(recipe)])


def wanted_by_pipeline(pipeline: Pipeline) -> list[Wanted]:
    """Those of all its stages."""
    found: list[Wanted] = []
    for stage in pipeline.stages:
        if isinstance(stage, Stage):
            found += wanted_by(stage.recipe)
        else:
            found += _of_evaluation(stage.keys, stage.where)
    return _each_once(found)


def fetch(wanted: Wanted) -> Path | None:
    """Brings it here, what is missing of it; the model's folder, None of a data set.

    Raises UserError where the hub has nothing of that name, or no whole model, or is not to be asked;
    EnvironmentFallsShort where it does not answer.
    """
    if is_offline():
        raise UserError("the environment says that the hub is not to be asked", where=wanted.where,
                        hint=f"unset {' '.join(OFFLINE)}")  # fmt: skip
    try:
        check_on_hub(wanted.kind, wanted.name, where=wanted.where)
    except EnvironmentFallsShort as error:
        raise EnvironmentFallsShort(error.what, where=wanted.where, hint=_NO_HUB) from error
    if wanted.source is not None:
        hub_dataset(wanted.source, wanted.list_name)
        return None
    from distft.models.vocabulary_extension import fetched  # of torch's weight: most recipes take nothing from the hub

    folder = fetched(wanted.name, weights=True)
    check_folder(folder, wanted.where)
    return folder


def _models(recipe: Recipe) -> Iterator[Wanted]:
    for role in roles(recipe):
        model, where = model_of(recipe, role), f"models.{role}.path"
        if model.path is None:
            continue
        if model.trust_remote_code:
            require_own_copy(model.path, where)
        yield from _model(model.path, where)


def _model(path: str, where: str) -> Iterator[Wanted]:
    if path.startswith(_ELSEWHERE) or Path(path).expanduser().is_dir():
        return
    if path.startswith((".", "/", "~")) or path.count("/") > 1:
        not_here(path, where)  # which raises, and says what may have been meant
    yield Wanted("model", path, where)


def _data(recipe: Recipe) -> Iterator[Wanted]:
    data = recipe.data
    lists = {"train": data.train, "eval": data.eval, "test": data.test}
    for name, sources in lists.items():
        for number, source in enumerate(sources):
            yield from _dataset(source, name, f"data.{name}.{number}.path")
    for number, source in enumerate(data.ptx):
        yield from _dataset(source, "train", f"data.ptx.{number}.path")
    for role in roles(recipe):
        init = model_of(recipe, role).init
        own = init.tokenizer.train_on if init is not None else None
        for number, source in enumerate(own or ()):
            yield from _dataset(source, "train", f"models.{role}.init.tokenizer.train_on.{number}.path")
    if recipe.evaluation.general is not None:
        yield from _dataset(general_source(recipe.evaluation.general), "test", "evaluation.general")


def _dataset(source: Source, list_name: str, where: str) -> Iterator[Wanted]:
    if not is_builtin(source) and not source_files(source, list_name):
        yield Wanted("dataset", source.path, where, source, list_name)


def _of_evaluation(keys: EvalKeys, where: str) -> Iterator[Wanted]:
    judges = [path for path in (keys.reference, keys.reward, keys.toxicity, keys.judge) if path is not None]
    for path in (*keys.eval, *judges):
        yield from _model(path, where)
    for path in keys.data:
        yield from _dataset(Source(path=path, split=keys.split), "test", where)


def _each_once(found: list[Wanted]) -> list[Wanted]:
    """Of equal ones the first. A data set is another where another split of it is wanted."""
    keys = {(one.kind, one.name, one.source and (one.source.split or one.list_name)): one for one in reversed(found)}
    return [one for one in found if one in keys.values()]
