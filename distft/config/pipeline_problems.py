"""What is wrong with a pipeline's own keys, whatever its stages do."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, Final

from distft.common.errors import nearest
from distft.config.eval_stage import MODELS, read_keys
from distft.config.problem import Problem
from distft.config.yaml_file import KeyPath

STAGE: Final = "stage:"  # before a stage's name, where a model is named by it
_KEYS = ("format", "name", "output_dir", "common", "stages")
_OWN = ("name", "output_dir")  # which a stage has from the pipeline
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,31}")


def problems(data: Mapping[str, Any]) -> Iterator[Problem]:
    """One a key."""
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
    if isinstance(stage, Mapping) and "eval" in stage:
        yield from _eval_problems(name, stage)
        return
    if not isinstance(stage, Mapping) or not isinstance(stage.get("recipe"), str):
        others = ", ".join(other for other in stages if other != name)
        hint = f"stages.{name}: {{recipe: a shipped name or a file}}, or {{eval: [models]}}"
        hint += f"; other stages: {others}" if others else ""
        yield Problem(("stages", name, "recipe"), f"the stage {name} has no recipe", hint)
        return
    yield from _not_here(stage, ("stages", name))


def _eval_problems(name: str, stage: Mapping[str, Any]) -> Iterator[Problem]:
    at = ("stages", name)
    if "recipe" in stage:
        hint = "a stage trains by recipe, or judges by eval: make two of it"
        yield Problem((*at, "recipe"), f"the stage {name} has a recipe and eval", hint)
        return
    yield from _not_here(stage, at)
    own = {key: value for key, value in stage.items() if key not in _OWN}
    yield from (replace(problem, path=(*at, *problem.path)) for problem in read_keys(own)[1])
    for key in sorted({*own}.difference(MODELS)):
        if STAGE in str(own[key]):
            hint = f"{', '.join(MODELS)} name models; data is named by its file"
            yield Problem((*at, key), f"{STAGE}NAME is a model, and {key} is none", hint)


def _not_here(section: Mapping[str, Any], at: KeyPath) -> Iterator[Problem]:
    """Keys that a stage has from its pipeline, or that each has for itself."""
    for key in (*_OWN, "recipe") if at == ("common",) else _OWN:
        if key in section and key == "recipe":
            yield Problem((*at, key), "each stage has a recipe of its own", "name it in each stage")
        elif key in section:
            hint = f"remove it, and set the pipeline's {key}"
            yield Problem((*at, key), f"a stage has its {key} from the pipeline", hint)
