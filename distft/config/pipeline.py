"""A pipeline: recipes that follow each other, each from the models of those before.

    name: mine
    output_dir: runs/mine
    common: {seed: 3}                                   # keys of every stage
    stages:
      sft: {recipe: sft-tiny}                           # runs/mine/sft
      dpo: {recipe: dpo-tiny, models: {policy: {path: "stage:sft"}}, train: {steps: 20}}

A stage is a recipe, a shipped one or a file, with keys in place of its own: what ``distft train RECIPE key=value ...``
is on the command line. ``stage:NAME`` as a model's path is the result of that stage. One with ``eval`` judges results
and trains nothing (see ``eval_stage``); ``common`` is not about it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distft.common.errors import UserError, nearest
from distft.config.eval_stage import MODELS, EvalKeys, read_keys
from distft.config.load import load_recipe, recipe_file
from distft.config.models import Model
from distft.config.new_tokens import new_tokens
from distft.config.overrides import Override, apply_overrides, parse_override
from distft.config.pipeline_problems import STAGE, problems
from distft.config.problems import report
from distft.config.recipe import Recipe
from distft.config.roles import main_role
from distft.config.section import from_home
from distft.config.yaml_file import KeyPath, Tree, read_yaml

_GROUP = ("tracking", "wandb", "group")


@dataclass(frozen=True)
class Stage:
    """One recipe of a pipeline. ``source``: a shipped name or a file; ``overrides``: keys in place of its own;
    ``needs``: the stages whose results it starts from; ``shaped``: the same recipe started from what those stages
    start from, which has the sizes of their results before there are any."""

    name: str
    source: str
    overrides: tuple[str, ...]
    needs: tuple[str, ...]
    recipe: Recipe
    shaped: Recipe

    @property
    def words(self) -> list[str]:
        """What is typed behind ``distft train`` to run it alone."""
        return [self.source, *self.overrides]

    @property
    def result(self) -> str:
        """What it makes, as a model's path: its run."""
        return f"run:{self.recipe.output_dir}"


@dataclass(frozen=True)
class EvalStage:
    """An evaluation of a pipeline. ``title``: what it is called elsewhere; ``keys``: with its models as ``distft eval``
    takes them; ``results``: (key, stage) of each that is the result of a stage; ``where`` it was written; ``before``:
    the names of the training stages above it."""

    name: str
    title: str
    keys: EvalKeys
    results: tuple[tuple[str, Stage], ...]
    where: str
    before: tuple[str, ...]

    @property
    def needs(self) -> tuple[str, ...]:
        """The stages whose results it judges, or judges by."""
        return tuple(dict.fromkeys(stage.name for _, stage in self.results))


@dataclass(frozen=True)
class Pipeline:
    """Its stages in their order; the folder of each lies in ``output_dir``, by its name."""

    name: str
    output_dir: str
    stages: tuple[Stage | EvalStage, ...]

    @property
    def trained(self) -> tuple[Stage, ...]:
        """The stages that are runs."""
        return tuple(stage for stage in self.stages if isinstance(stage, Stage))

    def folder(self, stage: Stage | EvalStage) -> Path:
        """The folder of a stage."""
        return Path(self.output_dir) / stage.name


def is_pipeline(name_or_path: str) -> bool:
    """Whether a shipped name or a path is of a file with ``stages:``. Raises as ``recipe_file`` and ``read_yaml``."""
    data = read_yaml(recipe_file(name_or_path)).data
    return isinstance(data, Mapping) and "stages" in data


def load_pipeline(name_or_path: str, overrides: Sequence[str | Override] = ()) -> Pipeline:
    """The pipeline of a shipped name or a YAML path, with ``stages.NAME.key=value`` and ``common.key=value`` from the
    command line.

    Raises UserError: for the pipeline's own keys one that lists everything wrong; then for the first stage that is.
    """
    file = recipe_file(name_or_path)
    tree = read_yaml(file)
    apply_overrides(tree, [parse_override(one) if isinstance(one, str) else one for one in overrides])
    if wrong := list(problems(tree.data)):
        raise report(wrong, tree)
    data: Mapping[str, Any] = tree.data
    stages: dict[str, Stage | EvalStage] = {}
    for name, section in data["stages"].items():
        if "eval" in section:
            stages[name] = _eval_stage(name, tree, stages)
        else:
            stages[name] = _stage(name, tree, file.parent, stages)
    return Pipeline(data["name"], from_home(data["output_dir"]), tuple(stages.values()))


# ---- a stage


def _stage(name: str, tree: Tree, folder: Path, before: Mapping[str, Stage | EvalStage]) -> Stage:
    title, output_dir = tree.data["name"], tree.data["output_dir"]
    source = _source(tree.data["stages"][name]["recipe"], folder, tree.where(("stages", name, "recipe")))
    keys = _keys(name, tree)
    needs = {path: _needed(value, path, where, before) for path, (value, where) in keys.items() if _names_stage(value)}
    overrides = [
        Override.of(("output_dir",), f"{output_dir}/{name}", tree.where(("output_dir",))),
        Override.of(("name",), f"{title}-{name}", tree.where(("name",))),
    ]
    shaped = list(overrides)
    for path, (value, where) in keys.items():
        if path in needs:
            overrides.append(Override.of(path, needs[path].result, where))
            shaped += [_start(path, needs[path]), Override.of((*path[:-1], "extend_vocabulary"), None, where)]
        else:
            overrides.append(Override.of(path, value, where))
            if not _is_about_a_result(path, needs):
                shaped.append(overrides[-1])
    recipe = load_recipe(source, overrides)
    return Stage(
        name,
        source,
        tuple(one.text for one in overrides),
        tuple(dict.fromkeys(stage.name for stage in needs.values())),
        recipe,
        _with_new_tokens(load_recipe(source, shaped), recipe, needs),
    )


def _keys(name: str, tree: Tree) -> dict[KeyPath, tuple[Any, str]]:
    """The keys of a stage, those of every stage included: value, and where it was written."""
    found: dict[KeyPath, tuple[Any, str]] = {_GROUP: (tree.data["name"], tree.where(("name",)))}
    for top, section in ((("common",), tree.data.get("common", {})), (("stages", name), tree.data["stages"][name])):
        found |= {path: (value, tree.where((*top, *path))) for path, value in _leaves(section, ()) if path}
    del found[("recipe",)]
    return found


def _names_stage(value: Any) -> bool:
    """Whether a value names a stage, somewhere in it."""
    if isinstance(value, Mapping):
        return any(map(_names_stage, value.values()))
    if isinstance(value, list):
        return any(map(_names_stage, value))
    return isinstance(value, str) and value.startswith(STAGE)


def _source(recipe: str, folder: Path, where: str) -> str:
    """A file beside the pipeline's, or else a shipped name or a file as seen from the working folder."""
    beside = folder / recipe
    source = str(beside) if beside.is_file() else recipe
    try:
        file = recipe_file(source)
    except UserError as error:
        raise UserError(f"{error.where}: {error.what}", where=where, hint=error.hint) from None
    if is_pipeline(str(file)):
        raise UserError(f"{recipe} is a pipeline itself", where=where, hint="name the recipes of its stages")
    return source


def _leaves(node: Any, path: KeyPath) -> Iterator[tuple[KeyPath, Any]]:
    """The values by their key paths; a list is one value."""
    if isinstance(node, Mapping) and node:
        for key, value in node.items():
            yield from _leaves(value, (*path, key))
    else:
        yield path, node


def _is_about_a_result(path: KeyPath, needs: Mapping[KeyPath, Stage]) -> bool:
    """Whether the key is about a stage's result, and not about what that starts from: one output of a classifier,
    tokens beside those that it has, ``init: null``."""
    return path[-1] in ("label", "score", "extend_vocabulary", "init") and (*path[:-1], "path") in needs


def _needed(value: Any, path: KeyPath, where: str, before: Mapping[str, Stage | EvalStage]) -> Stage:
    """The stage that a model's path names. Raises UserError."""
    if not isinstance(value, str) or path[0] != "models" or path[-1] != "path":
        hint = f"models.policy.path: {STAGE}NAME; data is named by its file"
        raise UserError(f"{STAGE}NAME can be a model's path only", where=where, hint=hint)
    return _named(value, where, before)


def _named(value: str, where: str, before: Mapping[str, Stage | EvalStage]) -> Stage:
    """The stage before this one that is named. Raises UserError."""
    name, trained = value.removeprefix(STAGE), [one for one, stage in before.items() if isinstance(stage, Stage)]
    listed = ", ".join(trained) or "none: it is the first"
    if name in before and name not in trained:
        raise UserError(f"the stage {name} makes no model: it judges some", where=where, hint=f"before it: {listed}")
    if name not in before:
        close = nearest(name, trained)
        hint = f"did you mean {STAGE}{close}? " if close else ""
        raise UserError(f"no stage before this one is called {name}", where=where, hint=f"{hint}before it: {listed}")
    found = before[name]
    assert isinstance(found, Stage)
    return found


def _start(path: KeyPath, stage: Stage) -> Override:
    """What a stage's result starts from, as what the model at ``path`` starts from."""
    start = _trained(stage).model_dump(mode="json", by_alias=True, include={"path", "init"})
    [(key, value)] = [(key, value) for key, value in start.items() if value is not None]
    return Override.of((*path[:-1], key), value, f"stage {stage.name}")


def _trained(stage: Stage) -> Model:
    """The model that becomes a stage's result, as it is ``shaped``."""
    model = stage.shaped.models.of(main_role(stage.shaped))
    assert model is not None, "a recipe names the model that it trains"
    return model


def _with_new_tokens(shaped: Recipe, recipe: Recipe, needs: Mapping[KeyPath, Stage]) -> Recipe:
    """With the tokens that a stage's result has beside those of its start, and those that ``recipe`` gives it. Only
    behind the rules of recipes: a result that has them may be frozen, or begin adapters, or have begun from nothing.

    Raises UserError where there are both and one is a file that cannot be read.
    """
    models = {}
    for path, stage in needs.items():
        role = ".".join(map(str, path[1:-1]))
        own, model = recipe.models.of(role), shaped.models.of(role)
        assert own is not None, "its path is said"
        assert model is not None, "its start is said"
        before, more = _trained(stage).extend_vocabulary, own.extend_vocabulary
        whole = more if before is None else before
        if before is not None and more is not None:
            key = f"models.{role}.extend_vocabulary"
            whole = tuple(dict.fromkeys((*new_tokens(before, key), *new_tokens(more, key))))
        models[role] = model.model_copy(update={"extend_vocabulary": whole})
    return shaped.model_copy(update={"models": shaped.models.having(models)})


# ---- an eval stage


def _eval_stage(name: str, tree: Tree, before: Mapping[str, Stage | EvalStage]) -> EvalStage:
    """Raises UserError where it names no stage before it."""
    title, at = tree.data["name"], ("stages", name)
    keys, _ = read_keys(tree.data["stages"][name])
    assert keys is not None, "problems were looked for"
    results = [
        (key, model, _named(model, tree.where((*at, key)), before))
        for key, model in keys.named_models()
        if model.startswith(STAGE)
    ]
    paths = {model: stage.result for _, model, stage in results}
    named = {
        key: tuple(paths.get(one, one) for one in value) if isinstance(value, tuple) else paths.get(value, value)
        for key, value in keys.model_dump(include=set(MODELS)).items()
    }
    own = tuple((key, stage) for key, _, stage in results)
    trained = tuple(one.name for one in before.values() if isinstance(one, Stage))
    return EvalStage(name, f"{title}-{name}", keys.model_copy(update=named), own, tree.where(at), trained)
