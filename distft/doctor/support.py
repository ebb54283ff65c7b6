"""What goes together: method, family of models, adapter, quantization, ZeRO stage and engine, asked of the rules.

A cell is one value of each. It is written as a recipe and put to the checks of a run: there is no table of support
beside them that could say something else.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, Final, get_args

from pydantic import ValidationError

from distft.common.errors import UserError
from distft.config.adapters.kinds import ADAPTERS
from distft.config.find_method import built_in_kinds, traits_of
from distft.config.method import Traits
from distft.config.models import Engine, Quantization
from distft.config.problem import Problem
from distft.config.problems import from_validation
from distft.config.recipe import Recipe
from distft.config.roles import model_of
from distft.config.rules import violations
from distft.config.training import Rollout
from distft.launch.preflight.architectures import check_adapters, check_architecture
from distft.launch.preflight.remarks import on_numbers
from distft.models.families.table import EXAMPLES
from distft.planning.encoder_decoders import require_possible

NONE: Final = "none"
# Keys of an adapter that have no default.
NEEDED: Final[Mapping[str, Mapping[str, Any]]] = {"selective": {"train": ["*.0.*"]}}
_RULE: Final = "distft.rollout.rewards:exact_match"


@dataclass(frozen=True)
class Cell:
    """One value of each axis."""

    method: str
    family: str
    adapter: str
    quantization: str
    zero_stage: str
    engine: str


@dataclass(frozen=True)
class Verdict:
    """``refusals``: what the run would be refused with, empty where it is not; ``remarks``: what it would be told."""

    refusals: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()

    @property
    def said(self) -> str:
        """``yes``, ``warning`` or ``no``."""
        return "no" if self.refusals else "warning" if self.remarks else "yes"


def axes() -> dict[str, tuple[str, ...]]:
    """The values of each axis of a cell, the plain one first."""
    return {
        "method": built_in_kinds(),
        "family": tuple(EXAMPLES),
        "adapter": (NONE, *ADAPTERS),
        "quantization": (NONE, *get_args(Quantization.model_fields["method"].annotation)),
        "zero_stage": tuple(map(str, get_args(Engine.model_fields["zero_stage"].annotation))),
        "engine": tuple(one for one in get_args(Rollout.model_fields["engine"].annotation) if one != "auto"),
    }


def cells() -> Iterator[Cell]:
    """All there are, the last axis first."""
    yield from (Cell(*values) for values in product(*axes().values()))


def verdict_of(cell: Cell, folder: Path) -> Verdict:
    """What the checks say of a run in that cell, in which ``folder`` is the policy's (see ``write_config``)."""
    traits, raw = traits_of(cell.method), as_recipe(cell, folder)
    try:
        recipe = Recipe.model_validate(raw)
    except ValidationError as error:
        return Verdict(tuple(map(_said, from_validation(error, raw))))
    if problems := violations(recipe):
        return Verdict(tuple(map(_said, problems)))
    config, model = EXAMPLES[cell.family], model_of(recipe, traits.main)
    try:
        require_possible(recipe)
        check_architecture(config, Path(config["model_type"]), traits.main, model, traits=traits)
        check_adapters(config, traits.main, model)
    except UserError as error:
        return Verdict((_said(error),))
    return Verdict(remarks=tuple(on_numbers(recipe)))


def write_config(family: str, folder: Path) -> None:
    """The config.json of a model of that family; the checks look at no more of it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(EXAMPLES[family]), encoding="utf-8")


def as_recipe(cell: Cell, folder: Path) -> dict[str, Any]:
    """The least that a recipe of that cell says, its values on the model that the run is about."""
    traits = traits_of(cell.method)
    model: dict[str, Any] = {"path": str(folder), "engine": {"zero_stage": int(cell.zero_stage)}}
    if cell.adapter != NONE:
        model["peft"] = {"method": cell.adapter, **NEEDED.get(cell.adapter, {})}
    if cell.adapter == "adalora":  # of any other dtype it is a no
        model["dtype"] = "float32"
    if cell.quantization != NONE:
        model["quantization"] = {"method": cell.quantization}
    models = {traits.main: model}
    if "teacher" in traits.roles:
        models["teacher"] = {"path": str(folder)}
    if traits.sampled:
        models["reward"] = {"functions": [_RULE]}
    rollout: dict[str, Any] = {"engine": cell.engine} if traits.sampled or cell.engine != "hf" else {}
    if traits.sampled and cell.engine == "hf" and cell.quantization != NONE:
        rollout["weights"] = "sharded"  # there are no whole ones to generate from
    if traits.sampled:
        rollout["samples_per_prompt"] = 2
    return {
        "name": "cell",
        "output_dir": "runs/cell",
        "algorithm": {"kind": cell.method},
        "models": models,
        "data": {"train": [{"path": f"builtin:{_corpus(traits)}"}]},
        "train": {"steps": 1},
        "rollout": rollout,
    }


def _corpus(traits: Traits) -> str:
    """An embedded one that it can learn from."""
    if traits.embeds:
        return "questions"
    if traits.judges_steps:
        return "steps"
    if traits.sampled:
        return "sums"  # it says which answer is right
    return "stories" if traits.classifies or traits.corrupts or traits.in_blocks else "dialogues"


def _said(wrong: Problem | UserError) -> str:
    where = wrong.key if isinstance(wrong, Problem) else wrong.where
    return f"{where}: {wrong.what} -> {wrong.hint}"
