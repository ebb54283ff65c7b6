"""What a recipe may say, for editors and for people: JSON Schema, and every key with its default."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema
from pydantic_core import PydanticUndefined

from distft.config.adapters.kinds import ADAPTERS
from distft.config.eval_stage import EvalKeys
from distft.config.find_method import built_in_kinds, method_of
from distft.config.optimizers.kinds import OPTIMIZERS
from distft.config.recipe import Recipe

_REFERENCE = "#/$defs/{model}"
_FROM_OUTSIDE = {
    "title": "a method from outside",
    "type": "object",
    "properties": {
        "kind": {"type": "string", "pattern": ":", "description": "package.module:Class or ./file.py:Class"}
    },
    "required": ["kind"],
}


_STAGE: dict[str, Any] = {
    "title": "a stage that trains",
    "type": "object",
    "properties": {
        "recipe": {
            "type": "string", "description": "a shipped name or a file; other keys are in place of its own",
        }
    },
    "required": ["recipe"],
}  # fmt: skip
_PIPELINE: dict[str, Any] = {
    "title": "Pipeline",
    "type": "object",
    "additionalProperties": False,
    "properties": {
        "format": {"const": 1, "description": "version of the file format"},
        "name": {"type": "string", "description": "of the pipeline, and its W&B group"},
        "output_dir": {"type": "string", "description": "folder of the stages' folders"},
        "common": {"type": "object", "description": "of a pipeline: keys of every stage that trains"},
        "stages": {
            "type": "object", "description": "by name, in order", "minProperties": 1,
            "additionalProperties": {
                "if": {"required": ["eval"]}, "then": {"$ref": _REFERENCE.format(model="EvalKeys")}, "else": _STAGE,
            },
        },
    },
    "required": ["name", "output_dir", "stages"],
}  # fmt: skip


class _AnyKind(GenerateJsonSchema):
    """Of a section that does not say its kind several may be meant: the default, or of a role's optimizer the
    recipe's."""

    def tagged_union_schema(self, schema: Any) -> dict[str, Any]:
        """``anyOf`` in place of ``oneOf``."""
        return {"anyOf": super().tagged_union_schema(schema)["oneOf"]}


@dataclass(frozen=True)
class Key:
    """A key of the recipe by its dotted name; ``default`` is as it would be typed, empty where it must be given."""

    name: str
    type: str
    default: str
    description: str


def recipe_schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of recipes and pipelines: each built-in method with its own keys, those from
    outside with any; of a pipeline's stages those that judge, for the keys of the others depend on their recipes.

    What keys mean together (``distft plan`` says it) is not in it.
    """
    recipe, judging = (
        one.model_json_schema(ref_template=_REFERENCE, schema_generator=_AnyKind) for one in (Recipe, EvalKeys)
    )
    defs = {**recipe.pop("$defs"), **judging.pop("$defs", {}), "Recipe": recipe, "EvalKeys": judging}
    schema: dict[str, Any] = {
        "$schema": "https://json-schema.org/draft/2020-12/schema", "$defs": {**defs, "Pipeline": _PIPELINE},
        "if": {"required": ["stages"]}, "then": {"$ref": _REFERENCE.format(model="Pipeline")},
        "else": {"$ref": _REFERENCE.format(model="Recipe")},
    }  # fmt: skip
    methods = []
    for kind in built_in_kinds():
        method = method_of(kind)
        found = method.model_json_schema(ref_template=_REFERENCE)
        schema["$defs"] |= {**found.pop("$defs", {}), method.__name__: found}
        methods.append({"$ref": _REFERENCE.format(model=method.__name__)})
    schema["$defs"]["Method"] = {"oneOf": [*methods, _FROM_OUTSIDE]}
    return schema


def recipe_keys() -> Iterator[Key]:
    """Every key, in the order in which recipes have them, then those of pipelines; of ``algorithm`` those of each kind,
    as ``algorithm (kind).key``. A section that was told before is a line that names where."""
    schema, told = recipe_schema(), _Told()
    for name, field in Recipe.model_fields.items():
        if name == "algorithm":
            for kind in built_in_kinds():
                for key, of_method in method_of(kind).model_fields.items():
                    if key != "kind":
                        yield from _key(f"algorithm ({kind}).{key}", method_of(kind), key, of_method, schema, told)
        else:
            yield from _key(name, Recipe, name, field, schema, told)
    for name, told_of in _PIPELINE["properties"].items():
        if name not in Recipe.model_fields and name != "stages":
            yield Key(f"{name}.NAME", "those of recipes", "{}", told_of["description"])
    yield Key("stages.NAME.recipe", "text", "", _STAGE["properties"]["recipe"]["description"])
    for name, field in EvalKeys.model_fields.items():
        yield from _key(f"stages.NAME (eval).{name}", EvalKeys, name, field, schema, told)


class _Told(dict[type[BaseModel], str]):
    """Sections and where each was told first."""


def _key(
    at: str, owner: type[BaseModel], name: str, field: Any, schema: Mapping[str, Any], told: _Told
) -> Iterator[Key]:
    """The key itself, or those of the section that it holds."""
    if len(kinds := _kinds_in(field.annotation)) > 1:
        for kind, section in kinds.items():
            yield from _section(f"{at} ({kind})", section, field, schema, told)
        return
    inner = _section_in(field.annotation)
    if inner is None:
        values = _type(_properties(owner, schema)[field.alias or name], schema)
        yield Key(at, values, _default(field), field.description or "")
        return
    section, item = inner
    yield from _section(at + item, section, field, schema, told)


def _section(here: str, section: type[BaseModel], field: Any, schema: Mapping[str, Any], told: _Told) -> Iterator[Key]:
    """The keys of a section; where it was told before, where that was."""
    if section in told:
        yield Key(here, f"as {told[section]}", _default(field), field.description or "")
        return
    told[section] = here
    for key, of_section in section.model_fields.items():
        yield from _key(f"{here}.{of_section.alias or key}", section, key, of_section, schema, told)


def _kinds_in(annotation: Any) -> dict[str, type[BaseModel]]:
    """The kinds of adapters or optimizers of which a key holds one, by their names; none for any other key."""
    if isinstance(annotation, type):
        return {kind: section for kind, section in (*ADAPTERS.items(), *OPTIMIZERS.items()) if section is annotation}
    parts = getattr(annotation, "__args__", ())
    return {kind: section for part in parts for kind, section in _kinds_in(part).items()}


def _section_in(annotation: Any) -> tuple[type[BaseModel], str] | None:
    """The section that a key holds, and what follows the key: of a list of them ``.0``, of named ones ``.NAME``; None
    for a plain value."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation, ""
    found = [_section_in(part) for part in getattr(annotation, "__args__", ())]
    sections = [one for one in found if one is not None]
    if len(sections) != 1:
        return None
    items: dict[Any, str] = {tuple: ".0", dict: ".NAME"}
    return sections[0][0], sections[0][1] or items.get(getattr(annotation, "__origin__", None), "")


def _properties(owner: type[BaseModel], schema: Mapping[str, Any]) -> Mapping[str, Any]:
    found: Mapping[str, Any] = schema["$defs"][owner.__name__]["properties"]
    return found


def _type(told: Mapping[str, Any], schema: Mapping[str, Any]) -> str:
    """``whole number >= 1``, ``a | b``, ``list of text``."""
    if "$ref" in told:
        return _type(schema["$defs"][told["$ref"].rpartition("/")[2]], schema)
    if "anyOf" in told:
        return " | ".join(dict.fromkeys(_type(one, schema) for one in told["anyOf"]))
    if "enum" in told or "const" in told:
        return " | ".join(str(one) for one in told.get("enum", [told.get("const")]))
    name = told.get("type", "any")
    if name == "array":
        items = told.get("items") or {}
        return f"list of {_type(items, schema)}" if items else "list"
    words = {"integer": "whole number", "string": "text", "boolean": "true | false", "object": "mapping"}
    bounds = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}
    limits = [f"{sign} {told[bound]}" for bound, sign in bounds.items() if bound in told]
    return " ".join([words.get(name, name), ", ".join(limits)]).strip()


def _default(field: Any) -> str:
    if field.default_factory is not None:
        value = field.default_factory()
    elif field.default is PydanticUndefined:
        return ""
    else:
        value = field.default
    return json.dumps(value.model_dump(exclude_unset=True) if isinstance(value, BaseModel) else value)
