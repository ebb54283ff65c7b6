"""Everything wrong with a recipe in one message: key, file and line, what, and the nearest right thing."""

from __future__ import annotations

import json
import typing
from collections.abc import Iterable, Mapping, Sequence
from types import NoneType
from typing import Any, Final

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from distft.common.errors import UserError, nearest
from distft.config.adapters.kinds import ADAPTER_KINDS
from distft.config.find_method import built_in_kinds, method_of
from distft.config.kinds import Kinds
from distft.config.method import Method
from distft.config.optimizers.kinds import OPTIMIZER_KINDS, roles_take_the_name
from distft.config.problem import Problem
from distft.config.recipe import NO_METHOD, UNKNOWN_KIND, WITHOUT_KIND, Recipe
from distft.config.synonyms import HARDWARE, SYNONYMS
from distft.config.yaml_file import KeyPath, Tree

_KINDS: Final[tuple[Kinds[Any], ...]] = (ADAPTER_KINDS, OPTIMIZER_KINDS)


def report(problems: Sequence[Problem], tree: Tree) -> UserError:
    """One error for all problems, each with the place where it was written."""
    located = [(problem, _place(problem, tree)) for problem in problems]
    if len(located) == 1:
        problem, place = located[0]
        return UserError(problem.what, where=place, hint=problem.hint)
    lines = [f"{len(located)} things are wrong"]
    for problem, place in located:
        lines.append(f"  {place}: {problem.what}")
        if problem.hint:
            lines.append(f"    {problem.hint}")
    return UserError("\n".join(lines), where=tree.source)


def from_validation(error: ValidationError, data: Mapping[str, Any], root: type[BaseModel] = Recipe) -> list[Problem]:
    """The problems that pydantic found with the data of a recipe, or of another ``root``; one a key, in its words."""
    problems: dict[KeyPath, Problem] = {}
    data = roles_take_the_name(data)
    for details in error.errors(include_url=False):
        path = _path(details["loc"])
        problem = _problem(path, details, data, root)
        if path in problems and details["type"] == "literal_error":
            expected = _options(details)
            problem = Problem(path, f"{problems[path].what}, or {' or '.join(expected)}", problems[path].hint)
        elif path in problems and details["type"] == "tuple_type":  # a word or a list
            example = f": [{details['input']}]" if isinstance(details["input"], str) else ""
            problem = Problem(path, problems[path].what, f"{problems[path].hint}, or a list{example}")
        problems[problem.path] = problem
    return list(problems.values())


def key_meant(word: str) -> str:
    """The key of a recipe that a word alone means: by what others call it, or by its last part; empty for none."""
    elsewhere = [dotted for name, dotted in _every_key(Recipe, "", {}) if name == word]
    called = SYNONYMS.get(word, "").split()
    return called[0] if called else min(elsewhere, key=lambda key: _distance(key, (word,), {}), default="")


def section_at(path: KeyPath, data: Mapping[str, Any], root: type[BaseModel] = Recipe) -> type[BaseModel] | None:
    """The section class at a key path, for a list or named ones that of its items; None where there is no section."""
    section: type[BaseModel] | None = root
    named = False  # whether what follows is a name, and no key
    for depth, part in enumerate(path):
        if isinstance(part, int) or named:
            named = False
            continue
        field = _fields(section).get(part) if section is not None else None
        if field is None:
            return None
        choices, named = _sections(field.annotation), typing.get_origin(field.annotation) is dict
        section = _chosen(choices, data, path[: depth + 1])
    return section


def _problem(path: KeyPath, details: ErrorDetails, data: Mapping[str, Any], root: type[BaseModel]) -> Problem:
    kind, value = details["type"], details.get("input")
    context = details.get("ctx", {})
    if kind == "extra_forbidden":
        return Problem(path, f"unknown key {path[-1]}", _nearest_key(path, data, root))
    if kind == "missing":
        return Problem(path, "is missing", _description(path, data, root))
    if kind == "literal_error":
        return Problem(path, f"{_shown(value)} is not known here", _did_you_mean(value, _options(details)))
    if kind == UNKNOWN_KIND:
        tag = context["kind"]
        hint = _did_you_mean(tag, built_in_kinds())
        if "." in str(tag):
            hint += "; one from outside is package.module:Class or ./file.py:Class"
        return Problem((*path, "kind"), f"unknown algorithm kind {_shown(tag)}", hint)
    if kind == NO_METHOD:
        return Problem((*path, "kind"), context["what"], context["hint"])
    if kind == WITHOUT_KIND:
        return Problem((*path, "kind"), "is missing", f"one of: {', '.join(built_in_kinds())}")
    if kind == "union_tag_invalid":
        return _not_a_kind(path, str(context["tag"]))
    hint = _description(path, data, root)
    if value is None and ":" in str(path[-1]):
        return Problem(path, "has no value", "in YAML a space follows the colon, in {a: b} too")
    if kind in ("model_type", "model_attributes_type", "dict_type"):
        return Problem(path, f"must be a mapping of keys, not {_shown(value)}", _mapping_hint(path, value, data, root))
    if kind == "tuple_type":
        return Problem(path, f"must be a list, not {_shown(value)}", _list_hint(path, value, data, root))
    if kind in _TYPES:
        return Problem(path, f"must be {_TYPES[kind]}, not {_shown(value)}", _type_hint(kind, value) or hint)
    if kind in _BOUNDS:
        bound = next(iter(context.values()))
        return Problem(path, f"must be {_BOUNDS[kind]} {bound:g}, not {_shown(value)}", hint)
    if kind == "string_pattern_mismatch":
        return Problem(path, f"{_shown(value)} is not allowed here", hint)
    if kind in ("string_too_short", "too_short", "too_long"):
        return Problem(path, "must not be empty" if value in ("", []) else "has the wrong number of items", hint)
    return Problem(path, str(details["msg"]), hint)


def _not_a_kind(path: KeyPath, branch: str) -> Problem:
    """Of an adapter or an optimizer that others have, why this has not."""
    kinds = next(one for one in _KINDS if branch.startswith(one.branch))
    said, path = branch.removeprefix(kinds.branch), (*path, kinds.key)
    if why := kinds.refused.get(said.lower().replace("-", "_")):
        return Problem(path, f"{said} is not to be had: {why}", f"one of: {', '.join(kinds.by_name)}")
    return Problem(path, f"{_shown(said)} is not known here", _did_you_mean(said, list(kinds.by_name)))


_TYPES = {
    "string_type": "a text",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "finite_number": "a finite number",
}
_BOUNDS = {
    "greater_than": "greater than",
    "greater_than_equal": "at least",
    "less_than": "less than",
    "less_than_equal": "at most",
}


def _path(location: Sequence[str | int]) -> KeyPath:
    """The key path: pydantic's location without the branches of unions."""
    path: list[str | int] = []
    for part in location:
        branch = isinstance(part, str) and (
            part.startswith(("literal[", "tuple[", *(kinds.branch for kinds in _KINDS)))
            or part in ("constrained-int", "int")
        )
        if not branch:
            path.append(part)
    return tuple(path)


def _at(path: Iterable[str | int], data: Any) -> Mapping[str, Any]:
    for part in path:
        data = data.get(part) if isinstance(data, Mapping) else None
    return data if isinstance(data, Mapping) else {}


def _chosen(choices: Sequence[type[BaseModel]], data: Mapping[str, Any], path: KeyPath) -> type[BaseModel] | None:
    """The section at a path; of methods, adapters and optimizers the one of the kind that stands there."""
    if kinds := _kinds_of(choices[0] if choices else None):
        return kinds.by_name.get(kinds.meant(_at(path, data)), choices[0])
    if choices != [Method]:
        return choices[0] if choices else None
    try:
        return method_of(str(_at(path, data).get("kind")))
    except (KeyError, UserError):
        return None


def _kinds_of(section: type[BaseModel] | None) -> Kinds[Any] | None:
    """The kinds that a section is one of."""
    return next((kinds for kinds in _KINDS if section is not None and issubclass(section, kinds.base)), None)


def _fields(section: type[BaseModel]) -> dict[str, Any]:
    return {field.alias or name: field for name, field in section.model_fields.items()}


def _sections(annotation: Any) -> list[type[BaseModel]]:
    """The section classes inside an annotation: of an optional, a union, or the items of a tuple."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    found = [_sections(part) for part in typing.get_args(annotation) if part not in (NoneType, Ellipsis)]
    return [section for part in found for section in part]


def _every_key(section: type[BaseModel], prefix: str, data: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    """(last part, dotted key) of every key under a section, of lists those of the first item, named ones left out."""
    for name, field in _fields(section).items():
        yield name, prefix + name
        inner = _chosen(_sections(field.annotation), data, (prefix + name,))
        if inner is not None and typing.get_origin(field.annotation) is not dict:
            item = "0." if "tuple" in str(field.annotation) else ""
            yield from _every_key(inner, f"{prefix}{name}.{item}", data)


def _nearest_key(path: KeyPath, data: Mapping[str, Any], root: type[BaseModel]) -> str:
    word = str(path[-1])
    section = section_at(path[:-1], data, root)
    known = list(_fields(section)) if section else []
    every = list(_every_key(root, "", data))
    meant = SYNONYMS.get(word, "").split()
    for *_, beside, own in (["", *key.split(".")] for key in meant):
        if own in known and path[-2:-1] == (beside,):
            return f"here that is {'.'.join(map(str, (*path[:-1], own)))}"
    if meant and not (len(path) > 1 and _nearest_of(word, known)):
        there = {dotted for _, dotted in every}
        if found := next((key for key in meant if key in there), None):
            return f"here that is {found}"
    elsewhere = [dotted for name, dotted in every if name == word]
    kinds = _kinds_of(section)  # it may be a key of another of them
    found = "" if len(path) == 1 and elsewhere else _nearest_of(word, known)
    if not found and elsewhere and not kinds and not (meant and root is Recipe):
        found = min(elsewhere, key=lambda key: _distance(key, path, data))
    if found:
        return f"did you mean {found}?"
    if meant and root is Recipe:
        return f"here that is {meant[0]}"
    if word in HARDWARE and root is Recipe and len(path) == 1:
        return "hardware stands in a cluster file, --cluster NAME; distft recipes copy local FILE makes one of yours"
    parent = ".".join(map(str, path[:-1])) or ("the recipe" if root is Recipe else "it")
    return f"{_having(word, kinds) if kinds else ''}keys of {parent}: {', '.join(known)}"


def _nearest_of(word: str, known: Sequence[str]) -> str:
    """The key that is nearly the word, or the only one that begins with it or has it as a part."""
    parts = [key for key in known if len(word) > 2 and (key.startswith(word) or word in key.split("_"))]
    return nearest(word, known) or (parts[0] if len(parts) == 1 else "")


def _having(word: str, kinds: Kinds[Any]) -> str:
    """Which of the kinds have a key that the chosen one has not."""
    having = [name for name, one in kinds.by_name.items() if word in _fields(one)]
    return f"a key of {kinds.key}: {' or '.join(having)}; " if having else ""


def _distance(key: str, path: KeyPath, data: Mapping[str, Any]) -> tuple[bool, int, bool, int]:
    """How far a key is from what was meant at the path: first those of models that the recipe names, of the one that
    the path is in; then those nearest to the top, the policy's before another model's, training rows before others."""
    section, role, *_ = [*key.split("."), ""]
    if section != "models":
        return False, key.count("."), not key.startswith("data.train."), len(key)
    stray = role != path[1] if path[0] == section and len(path) > 2 else role not in _at([section], data)
    return stray, key.count("."), role != "policy", len(key)


def _description(path: KeyPath, data: Mapping[str, Any], root: type[BaseModel]) -> str:
    while path and isinstance(path[-1], int):
        path = path[:-1]
    section = section_at(path[:-1], data, root)
    field = _fields(section).get(str(path[-1])) if section and path else None
    return f"{path[-1]}: {field.description}" if field is not None and field.description else ""


def _mapping_hint(path: KeyPath, value: object, data: Mapping[str, Any], root: type[BaseModel]) -> str:
    section = section_at(path, data, root)
    if value is None:
        return "leave the key out for its defaults, or give it keys"
    if path == ("algorithm",):
        return _kind_hint("kind", value, built_in_kinds())
    if kinds := _kinds_of(section):
        return _kind_hint(kinds.key, value, list(kinds.by_name))
    if section is not None and "path" in section.model_fields and isinstance(value, str):
        return f"write {{path: {value}}}"
    for key, field in _fields(section).items() if section else ():
        if isinstance(value, str) and value in typing.get_args(field.annotation):
            return f"write {{{key}: {value}}}"
    return f"its keys: {', '.join(_fields(section))}" if section else ""


def _kind_hint(key: str, value: object, names: Sequence[str]) -> str:
    return f"write {{{key}: {value}}}" if value in names else f"it starts with {key}: {', '.join(names)}"


def _list_hint(path: KeyPath, value: object, data: Mapping[str, Any], root: type[BaseModel]) -> str:
    section = section_at(path, data, root)
    if isinstance(value, str):
        item = f"{{path: {value}}}" if section is not None and "path" in section.model_fields else value
        return f"write [{item}]"
    return "leave the key out for its default" if value is None else "put it in brackets, or every item after '- '"


def _type_hint(kind: str, value: object) -> str:
    if kind in ("int_type", "int_from_float") and isinstance(value, float) and value.is_integer():
        return f"write {int(value)}"
    if kind == "string_type" and isinstance(value, int | float):
        return f'put it in quotes: "{value}"'
    if kind == "bool_type" and str(value).lower() in ("yes", "on", "1", "no", "off", "0"):
        return f"write {'true' if str(value).lower() in ('yes', 'on', '1') else 'false'}"
    return ""


def _options(details: ErrorDetails) -> list[str]:
    """``'a', 'b' or 'c'`` as a list."""
    expected = str(details.get("ctx", {}).get("expected", ""))
    return [part.strip().strip("'") for part in expected.replace(" or ", ", ").split(",")]


def _did_you_mean(value: object, options: Sequence[str]) -> str:
    close = nearest(str(value).lower(), options)
    listed = f"one of: {', '.join(options)}" if len(options) > 1 else f"must be {options[0]}"
    return f"did you mean {close}? {listed}" if close else listed


def _place(problem: Problem, tree: Tree) -> str:
    place = tree.where(problem.path)
    return f"{problem.key} ({place})" if problem.key and place else problem.key or place


def _shown(value: object) -> str:
    text = json.dumps(value, default=str, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."
