"""``a.b.c=value`` on the command line."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from distft.common.errors import UserError
from distft.config.yaml_file import KeyPath, Tree, parse_yaml

# Of such a pair the recipe holds one; an override that gives one takes the other away.
_EITHER_OR = (("path", "init"), ("steps", "epochs"))
_EITHER_OR_IN = re.compile(r"(?:models\.[a-z]+|train)$")


@dataclass(frozen=True)
class Override:
    """One override: the key path, its value, the text that means it on a command line, and where it was written."""

    path: KeyPath
    value: Any
    text: str
    where: str

    @classmethod
    def of(cls, path: KeyPath, value: Any, where: str) -> Override:
        """The override that puts a value, which was written in a file at ``where``, at a key path."""
        said = value if isinstance(value, str) and _reads_as_itself(value) else json.dumps(value, ensure_ascii=False)
        return cls(path, value, f"{'.'.join(map(str, path))}={said}", where)


def parse_override(text: str) -> Override:
    """The override written as ``text``. Raises UserError for one that is malformed."""
    where = f"override {text}"
    key, equals, value = text.partition("=")
    if not equals:
        hint = f"write {text}=VALUE" if "." in text else "one recipe, then keys such as optimizer.learning_rate=2e-6"
        raise UserError("has no =", where=where, hint=hint)
    if key.startswith("-"):
        raise UserError("overrides take no dashes", where=where, hint=f"write {key.lstrip('-')}={value}")
    key = key.strip()
    if not re.fullmatch(r"[^\s.]+(\.[^\s.]+)*", key):
        raise UserError("is not a dotted key", where=where, hint="overrides look like optimizer.learning_rate=2e-6")
    if not value.strip():
        raise UserError("has no value", where=where, hint=f"{key}=null takes a value away")
    path = tuple(int(part) if part.isdecimal() else part for part in key.split("."))
    return Override(path, parse_yaml(value, where, lines=False).data, text, where)


def apply_overrides(tree: Tree, overrides: Sequence[Override]) -> None:
    """Writes the overrides into the tree, later ones over earlier ones.

    Raises UserError for an index out of range and for a key below a plain value.
    """
    for override in overrides:
        _drop_counterpart(tree, override, overrides)
    for override in overrides:
        _set(tree, override)


def _reads_as_itself(text: str) -> bool:
    try:
        return bool(text.strip() == text and parse_yaml(text, "", lines=False).data == text)
    except UserError:
        return False


def _drop_counterpart(tree: Tree, override: Override, overrides: Sequence[Override]) -> None:
    for depth, part in enumerate(override.path[:3]):
        parent = override.path[:depth]
        if override.value is None or not _EITHER_OR_IN.match(".".join(map(str, parent))):
            continue
        for pair in _EITHER_OR:
            if part not in pair:
                continue
            other = (*parent, pair[1 - pair.index(str(part))])
            if any(each.path[: depth + 1] == other for each in overrides):
                continue
            section = _get(tree.data, parent)
            if isinstance(section, dict):
                section.pop(other[-1], None)


def _get(node: Any, path: KeyPath) -> Any:
    for part in path:
        if isinstance(node, dict):
            node = node.get(part)
        elif isinstance(node, list) and isinstance(part, int) and part < len(node):
            node = node[part]
        else:
            return None
    return node


def _set(tree: Tree, override: Override) -> None:
    where, node = override.where, tree.data
    for depth, part in enumerate(override.path):
        dotted = ".".join(map(str, override.path[:depth])) or "the recipe"
        last = depth == len(override.path) - 1
        if isinstance(node, list):
            part = _index(part, node, dotted, where)
        elif not isinstance(node, dict):
            raise UserError(
                f"{dotted} is a plain value and has no key {part}",
                where=where,
                hint=f"override {dotted} itself: {dotted}=...",
            )
        elif isinstance(part, int):
            part = str(part)
        if last:
            _put(node, part, override.value)
            break
        child = _get(node, (part,))
        if child is None:
            child = [] if isinstance(override.path[depth + 1], int) else {}
            _put(node, part, child)
        node = child
    _remark(tree, override.path, where)


def _index(part: str | int, node: list[Any], dotted: str, where: str) -> int:
    """The index of a list item; one past the end appends."""
    last = f"it has {len(node)}: 0 to {len(node) - 1}" if node else "it is empty"
    if not isinstance(part, int):
        raise UserError(
            f"{dotted} is a list and has no key {part}", where=where, hint=f"name an item: {dotted}.0.{part}"
        )
    if part > len(node):
        raise UserError(f"{dotted} has no item {part}", where=where, hint=f"{last}; {len(node)} adds one")
    return part


def _put(node: Any, part: str | int, value: Any) -> None:
    if isinstance(node, list) and part == len(node):
        node.append(value)
    else:
        node[part] = value


def _remark(tree: Tree, path: KeyPath, where: str) -> None:
    """What stood at the path is gone, and the override is where its value comes from."""
    for old in [old for old in tree.marks if old[: len(path)] == path]:
        del tree.marks[old]
    for end in range(1, len(path)):
        tree.marks.setdefault(path[:end], where)
    tree.marks[path] = where
