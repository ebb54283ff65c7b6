"""From a recipe's name or file and the command line's overrides to a checked Recipe."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from distft.common.errors import UserError, nearest
from distft.common.files import nearest_beside
from distft.config.find_method import code_of, in_full
from distft.config.overrides import Override, apply_overrides, parse_override
from distft.config.problems import from_validation, report
from distft.config.recipe import Recipe
from distft.config.redact import redact
from distft.config.roles import resolved
from distft.config.rules import violations
from distft.config.yaml_file import Tree, dump_yaml, read_yaml

_SHIPPED = Path(__file__).parent.parent / "recipes"
_PIPELINES = _SHIPPED / "pipelines"
_SUFFIXES = (".yaml", ".yml")
_DATA_SUFFIXES = (".jsonl", ".csv", ".parquet", ".arrow", ".txt", ".gz")


def load_recipe(name_or_path: str, overrides: Sequence[str | Override] = ()) -> Recipe:
    """The recipe of a shipped name or a YAML path, with ``a.b.c=value`` overrides, as typed or parsed already.

    Giving ``models.X.path`` takes the recipe's ``models.X.init`` away and the other way round; likewise
    ``train.steps`` and ``train.epochs``.

    Raises one UserError that lists everything wrong: dotted key, file and line, what, the nearest right thing.
    """
    parsed = [parse_override(one) if isinstance(one, str) else one for one in overrides]
    tree = read_yaml(recipe_file(name_or_path))
    if not isinstance(tree.data, dict):
        found = "is empty" if tree.data is None else "holds no mapping of keys"
        raise UserError(found, where=tree.source, hint="a recipe starts with format: 1; distft recipes lists examples")
    if "stages" in tree.data:
        named = ", ".join(_recipes_of(tree.data["stages"]))
        hint = f"distft train, plan and fetch take it whole; else name one of: {named}"
        raise UserError("is a pipeline; this takes one recipe", where=tree.where(("stages",)), hint=hint)
    apply_overrides(tree, parsed)
    _name_outsiders_in_full(tree.data, recipe_file(name_or_path).parent)
    return check_recipe(tree)


def _recipes_of(stages: Any) -> list[str]:
    """The recipes of a pipeline's stages, as far as it is one."""
    named = (
        [stage.get("recipe") for stage in stages.values() if isinstance(stage, dict)]
        if isinstance(stages, dict)
        else []
    )
    return [str(one) for one in dict.fromkeys(named) if one]


def _name_outsiders_in_full(data: dict[str, Any], folder: Path) -> None:
    algorithm = data.get("algorithm")
    if isinstance(algorithm, dict) and isinstance(kind := algorithm.get("kind"), str):
        algorithm["kind"] = in_full(kind, folder, kept="code" in algorithm)
    rollout = data.get("rollout")
    environment = rollout.get("environment") if isinstance(rollout, dict) else None
    if isinstance(environment, dict) and isinstance(name := environment.get("name"), str):
        environment["name"] = in_full(name, folder)


def said_in_full(recipe: Recipe) -> list[str]:
    """The overrides that name what comes from outside from any folder, for a job that reads a copy of the recipe."""
    environment = recipe.rollout.environment
    said = {"algorithm.kind": recipe.algorithm.kind}
    said |= {"rollout.environment.name": environment.name} if environment and environment.name else {}
    return [f"{key}={address}" for key, address in said.items() if ".py:" in address]


def check_recipe(tree: Tree) -> Recipe:
    """The recipe of a parsed tree. Raises one UserError that lists everything wrong."""
    try:
        recipe = Recipe.model_validate(tree.data)
    except ValidationError as error:
        raise report(from_validation(error, tree.data), tree) from None
    if problems := violations(recipe):
        raise report(problems, tree)
    return recipe


def shipped_recipes() -> list[tuple[str, str]]:
    """(name, one line about it) of every shipped recipe, by name."""
    return _described(_SHIPPED)


def shipped_pipelines() -> list[tuple[str, str]]:
    """(name, one line about it) of every shipped pipeline, by name."""
    return _described(_PIPELINES)


def names_recipe(word: str) -> bool:
    """Whether a word that stands among models names a recipe, or a pipeline: a shipped one, or a YAML file."""
    return word.endswith(_SUFFIXES) or word in dict([*shipped_recipes(), *shipped_pipelines()])


def _described(folder: Path) -> list[tuple[str, str]]:
    files = sorted(folder.glob("*.yaml"), key=lambda file: file.stem)
    return [(file.stem, file.read_text(encoding="utf-8").split("\n", 1)[0].lstrip("# ")) for file in files]


def resolved_yaml(recipe: Recipe) -> str:
    """The recipe with all defaults written out and secrets hidden; reading it again gives the same run. Of a method
    from outside it also says ``code``, the hash of what it is written in: changed code is another recipe."""
    said = resolved(recipe).model_dump(mode="json", by_alias=True)
    if (code := code_of(recipe.algorithm.kind)) is not None:
        said["algorithm"]["code"] = code
    return dump_yaml(redact(said))


def resolve_path(path: str) -> str:
    """A model's path as the Hugging Face loaders take it: ``run:<dir>`` becomes ``<dir>/final``.

    Raises UserError, naming the command that makes it, where that run has no result yet.
    """
    if not path.startswith("run:"):
        return path
    run = Path(path.removeprefix("run:"))
    final = run / "final"
    if not (final / "config.json").is_file():
        state = "has not finished" if run.is_dir() else "does not exist"
        near = None if run.is_dir() else _near_run(run)
        meant = f"did you mean run:{near}? else " if near and (near / "final" / "config.json").is_file() else ""
        hint = f"{meant}make it with: {_maker(run)}"
        raise UserError(f"the run {run} {state}: there is no {final}", where=path, hint=hint)
    return str(final)


def recipe_file(name_or_path: str) -> Path:
    """The file of a shipped name or a path. Raises UserError with the nearest name."""
    path = Path(name_or_path)
    if path.is_file():
        if path.suffix in _DATA_SUFFIXES:
            hint = f"a recipe names it: data.train.0.path={path} behind one of those that distft recipes lists"
            raise UserError("holds data, not a recipe", where=name_or_path, hint=hint)
        return path
    pipelines = [name for name, _ in shipped_pipelines()]
    names = [*(name for name, _ in shipped_recipes()), *pipelines]
    if name_or_path in names:
        return (_PIPELINES if name_or_path in pipelines else _SHIPPED) / f"{name_or_path}.yaml"
    if path.is_dir():
        inside = path / "recipe.yaml"
        hint = f"did you mean {inside}?" if inside.is_file() else "give a YAML file or a shipped recipe's name"
        raise UserError("is a folder, not a recipe", where=name_or_path, hint=hint)
    listed = f"shipped recipes: {', '.join(names)}"
    if path.suffix not in _SUFFIXES and len(path.parts) == 1:
        close = next((file for suffix in _SUFFIXES if Path(file := path.name + suffix).is_file()), None)
        close = close or nearest(name_or_path, names)
        raise UserError(
            "no shipped recipe has this name",
            where=name_or_path,
            hint=f"did you mean {close}? {listed}" if close else f"{listed}; a file's name ends in .yaml",
        )
    raise UserError("there is no such file", where=name_or_path, hint=_near_file(path, names) or listed)


def _near_file(path: Path, names: Sequence[str]) -> str:
    if path.stem in names:
        return f"shipped recipes go by their name: {path.stem}"
    siblings = [file for file in path.parent.glob("*") if file.suffix in _SUFFIXES] if path.parent.is_dir() else []
    close = nearest(path.name, [file.name for file in siblings])
    return f"did you mean {path.parent / close}?" if close else ""


def _near_run(run: Path) -> Path | None:
    """What may have been meant by a run that is not there: of the same name where recipes' runs lie, or beside it."""
    usual = Path("runs") / run
    return usual if usual.is_dir() and not run.is_absolute() else nearest_beside(run)


def _maker(run: Path) -> str:
    """The command that makes a run folder's result."""
    if (run / "recipe.yaml").is_file():
        return f"distft train {shlex.quote(str(run / 'recipe.yaml'))}"
    shipped = [(name, _SHIPPED / f"{name}.yaml") for name, _ in shipped_recipes()]
    for name, file in (*shipped, *((str(file), file) for file in sorted(Path().glob("*.yaml")) if file.is_file())):
        text = file.read_text(encoding="utf-8", errors="replace")
        if re.search(rf"^output_dir:\s*{re.escape(str(run))}\s*(?:#.*)?$", text, re.MULTILINE):
            return f"distft train {shlex.quote(name)}"
    return f"distft train RECIPE {shlex.quote(f'output_dir={run}')}"
