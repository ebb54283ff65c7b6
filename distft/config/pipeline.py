"""A pipeline: recipes that follow each other, each from the models of those before.

    name: mine
    output_dir: runs/mine
    common: {seed: 3}                                   # keys of every stage
    stages:
      sft: {recipe: sft-tiny}                           # runs/mine/sft
      dpo: {recipe: dpo-tiny, models: {policy: {path: "stage:sft"}}, train: {steps: 20}}

A stage is a recipe, a shipped one or a file, with keys in place of its own: what ``distft train RECIPE key=value ...``
is on the command line. ``stage:NAME`` as a model's path is the result of that stage.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distft.common.errors import UserError, nearest
from distft.config.load import load_recipe, recipe_file
from distft.config.overrides import Override, apply_overrides, parse_override
from distft.config.problem import Problem
from distft.config.problems import report
from distft.config.recipe import Recipe
from distft.config.roles import main_role
from distft.config.yaml_file import KeyPath, Tree, read_yaml

_KEYS = ("format", "name", "output_dir", "common", "stages")
_OWN = ("name", "output_dir")  # which a stage has from the pipeline
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,31}")
_STAGE = "stage:"
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


@dataclass(frozen=True)
class Pipeline:
    """Its stages in their order; the run folder of each lies in ``output_dir``, by its name."""

    name: str
    output_dir: str
    stages: tuple[Stage, ...]


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
    if problems := list(_problems(tree.data)):
        raise report(problems, tree)
    data: Mapping[str, Any] = tree.data
    stages: dict[str, Stage] = {}
    for name in data["stages"]:
        stages[name] = _stage(name, tree, file.parent, stages)
    return Pipeline(data["name"], data["output_dir"], tuple(stages.values()))


# ---- its own keys


def _problems(data: Mapping[str, Any]) -> Iterator[Problem]:
    for key in data:
        if key not in _KEYS:
            close = nearest(key, _KEYS)
            hint = f"did you mean {close}?" if close else f"for every stage: common.{key}; for one: stages.NAME.{key}"
            yield Problem((key,), f"unknown key {key} of a pipeline", hint)
    if data.get("format", 1) != 1:
        yield Problem(("format",), f"{data['format']!r} is not known here", "format: 1")
    for key in _OWN:
        if not isinstance(data.get(key), str) or not data[key].strip():
            what = "must be a text" if data.get(key) is not None else "is missing"
            yield Problem((key,), what, f"{key}: {'my-pipeline' if key == 'name' else 'runs/my-pipeline'}")
    common = data.get("common", {})
    if not isinstance(common, Mapping):
        yield Problem(("common",), "must be a mapping of keys", "common: {seed: 3}")
    else:
        yield from _not_here(common, ("common",))
    stages = data["stages"]
    if not isinstance(stages, Mapping) or not stages:
        yield Problem(("stages",), "must be a mapping of stages", "stages: {sft: {recipe: sft-tiny}}")
        return
    for name, stage in stages.items():
        yield from _stage_problems(name, stage, stages)


def _stage_problems(name: str, stage: Any, stages: Mapping[str, Any]) -> Iterator[Problem]:
    if not _NAME.fullmatch(name):
        yield Problem(("stages", name), f"{name!r} is no name of a stage", "letters, digits, dashes, underscores")
    if not isinstance(stage, Mapping) or not isinstance(stage.get("recipe"), str):
        others = ", ".join(other for other in stages if other != name)
        hint = f"stages.{name}: {{recipe: a shipped name or a file}}" + (f"; other stages: {others}" if others else "")
        yield Problem(("stages", name, "recipe"), f"the stage {name} has no recipe", hint)
        return
    yield from _not_here(stage, ("stages", name))


def _not_here(section: Mapping[str, Any], at: KeyPath) -> Iterator[Problem]:
    """Keys that a stage has from its pipeline, or that each has for itself."""
    for key in (*_OWN, "recipe") if at == ("common",) else _OWN:
        if key in section and key == "recipe":
            yield Problem((*at, key), "each stage has a recipe of its own", "name it in each stage")
        elif key in section:
            hint = f"remove it, and set the pipeline's {key}"
            yield Problem((*at, key), f"a stage has its {key} from the pipeline", hint)


# ---- a stage


def _stage(name: str, tree: Tree, folder: Path, before: Mapping[str, Stage]) -> Stage:
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
            overrides.append(Override.of(path, f"run:{output_dir}/{needs[path].name}", where))
            shaped.append(_start(path, needs[path]))
        else:
            overrides.append(Override.of(path, value, where))
            if not _names_an_output(path, needs):
                shaped.append(overrides[-1])
    return Stage(
        name,
        source,
        tuple(one.text for one in overrides),
        tuple(dict.fromkeys(stage.name for stage in needs.values())),
        load_recipe(source, overrides),
        load_recipe(source, shaped),
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
    return isinstance(value, str) and value.startswith(_STAGE)


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


def _names_an_output(path: KeyPath, needs: Mapping[KeyPath, Stage]) -> bool:
    """Whether the key is about one output of a classifier that a stage trains: what that starts from has none yet."""
    return path[-1] in ("label", "score") and (*path[:-1], "path") in needs


def _needed(value: Any, path: KeyPath, where: str, before: Mapping[str, Stage]) -> Stage:
    """The stage that a model's path names. Raises UserError."""
    if not isinstance(value, str) or path[0] != "models" or path[-1] != "path":
        hint = f"models.policy.path: {_STAGE}NAME; data is named by its file"
        raise UserError(f"{_STAGE}NAME can be a model's path only", where=where, hint=hint)
    name = value.removeprefix(_STAGE)
    if name not in before:
        close = nearest(name, before)
        hint = f"did you mean {_STAGE}{close}? " if close else ""
        listed = ", ".join(before) or "none: it is the first"
        raise UserError(f"no stage before this one is called {name}", where=where, hint=f"{hint}before it: {listed}")
    return before[name]


def _start(path: KeyPath, stage: Stage) -> Override:
    """What a stage's result starts from, as what the model at ``path`` starts from."""
    recipe = stage.shaped
    start = getattr(recipe.models, main_role(recipe)).model_dump(mode="json", by_alias=True, include={"path", "init"})
    [(key, value)] = [(key, value) for key, value in start.items() if value is not None]
    return Override.of((*path[:-1], key), value, f"stage {stage.name}")
