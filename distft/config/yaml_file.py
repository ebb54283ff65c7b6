"""YAML that remembers where everything stood: a plain tree, and ``file:line`` of every key and item.

Differences from YAML 1.1, each because it bites in recipes: ``1e-6`` is a number, only ``true`` and
``false`` are booleans (``no`` and ``off`` are texts), ``1:30`` and dates are texts, a key given twice is
an error, tags and non-text keys are refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import yaml
from yaml.reader import ReaderError

from distft.common.errors import UserError

KeyPath: TypeAlias = tuple[str | int, ...]

_TAG = "tag:yaml.org,2002:"
_INT = re.compile(r"[-+]?[0-9]+(?:_[0-9]+)*$")
_FLOAT = re.compile(
    r"[-+]?(?:[0-9][0-9_]*\.?[0-9]*(?:[eE][-+]?[0-9]+)?|\.[0-9]+(?:[eE][-+]?[0-9]+)?|\.(?:inf|Inf|INF))$"
    r"|\.(?:nan|NaN|NAN)$"
)
_NULL = re.compile(r"(?:~|null|Null|NULL|)$")
_BOOL = re.compile(r"(?:true|True|TRUE|false|False|FALSE)$")


# Far above what anybody writes; a few lines of aliases of aliases make billions.
_MOST_VALUES = 100_000


@dataclass
class Tree:
    """A parsed file: ``data`` of dicts, lists and scalars; ``marks`` says where each key path stood."""

    data: Any
    marks: dict[KeyPath, str] = field(default_factory=dict)
    source: str = ""

    def where(self, path: KeyPath) -> str:
        """``file:line`` of the path, or of the nearest part of it that was written down."""
        for end in range(len(path), 0, -1):
            if path[:end] in self.marks:
                return self.marks[path[:end]]
        return self.source


class _Loader(yaml.SafeLoader):
    """The safe loader with resolvers of its own."""

    # The type stubs leave this out; emptied so that only the patterns below decide.
    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012


_Loader.add_implicit_resolver(_TAG + "null", _NULL, ["~", "n", "N", ""])
_Loader.add_implicit_resolver(_TAG + "bool", _BOOL, list("tTfF"))
_Loader.add_implicit_resolver(_TAG + "int", _INT, list("-+0123456789"))
_Loader.add_implicit_resolver(_TAG + "float", _FLOAT, list("-+0123456789."))


def read_yaml(path: Path) -> Tree:
    """The tree of a file. Raises UserError with ``file:line`` for what cannot be read or is no YAML."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError("is not a text file in UTF-8", where=str(path), hint=f"byte {error.start}") from error
    except OSError as error:
        raise UserError(f"cannot be read: {error.strerror}", where=str(path), hint="give a text file") from error
    return parse_yaml(text, str(path))


def parse_yaml(text: str, source: str, *, lines: bool = True) -> Tree:
    """The tree of a text; ``source`` names it in messages, with the line number if ``lines``."""
    tree = Tree(None, {}, source)
    try:
        loader = _Loader(text)
    except ReaderError as error:
        where = f"{source}:{text.count(chr(10), 0, error.position) + 1}" if lines else source
        what = f"holds the character {int(error.character):#04x}, which no text does"
        raise UserError(what, where=where, hint="remove it; is this a recipe?") from error
    try:
        node = loader.get_single_node()
        if node is not None:
            tree.data = _Builder(tree, lines).value(node, ())
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{source}:{mark.line + 1}" if mark and lines else source
        what = f"is not valid YAML: {error.problem or error.context}"
        raise UserError(what, where=where, hint=_yaml_hint(error)) from error
    except yaml.YAMLError as error:
        raise UserError(f"is not valid YAML: {error}", where=source, hint="is this a recipe?") from error
    except RecursionError as error:
        raise UserError("is nested too deeply", where=source, hint="close the brackets; is this a recipe?") from error
    finally:
        loader.dispose()
    return tree


class _Builder:
    """Turns YAML nodes into plain values and notes where they stood."""

    def __init__(self, tree: Tree, lines: bool) -> None:
        self.tree, self.lines = tree, lines
        self.open: set[int] = set()
        self.count = 0

    def value(self, node: yaml.Node, path: KeyPath) -> Any:
        self.count += 1
        if self.count > _MOST_VALUES:
            what = f"holds more than {_MOST_VALUES:,} values, aliases written out"
            raise UserError(what, where=self.where(node), hint="write the keys out, without aliases of aliases")
        if isinstance(node, yaml.ScalarNode):
            return self.scalar(node)
        if id(node) in self.open:
            raise UserError("an alias contains itself", where=self.where(node), hint="write the keys out")
        self.open.add(id(node))
        try:
            return self.mapping(node, path) if isinstance(node, yaml.MappingNode) else self.items(node, path)
        finally:
            self.open.discard(id(node))

    def mapping(self, node: yaml.MappingNode, path: KeyPath) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = self.scalar(key_node) if isinstance(key_node, yaml.ScalarNode) else None
            if not isinstance(key, str):
                raise UserError("a key must be a text", where=self.where(key_node), hint="put it in quotes")
            at = (*path, key)
            if key in result:
                raise UserError(
                    f"{_dotted(at)} is given twice",
                    where=self.where(key_node),
                    hint=f"the first is at {self.tree.marks[at]}",
                )
            self.tree.marks[at] = self.where(key_node)
            result[key] = self.value(value_node, at)
        return result

    def items(self, node: yaml.Node, path: KeyPath) -> list[Any]:
        result = []
        for index, item in enumerate(node.value):
            self.tree.marks[(*path, index)] = self.where(item)
            result.append(self.value(item, (*path, index)))
        return result

    def scalar(self, node: yaml.ScalarNode) -> Any:
        text = str(node.value)
        kind = str(node.tag).removeprefix(_TAG)
        if kind == "str":
            return text
        if kind == "null":
            return None
        if kind == "bool":
            return text.lower() == "true"
        if kind == "int":
            return self.whole(node, text)
        if kind == "float":
            return float(text.replace("_", "").lower().replace(".inf", "inf").replace(".nan", "nan"))
        raise UserError(f"the tag {node.tag} is not allowed", where=self.where(node), hint="write plain YAML values")

    def whole(self, node: yaml.ScalarNode, text: str) -> int:
        try:
            return int(text)
        except ValueError as error:  # Python reads no more than some thousand digits
            what = f"a number has {len(text):,} digits"
            raise UserError(what, where=self.where(node), hint="write a smaller one, or quote it") from error

    def where(self, node: yaml.Node) -> str:
        return f"{self.tree.source}:{node.start_mark.line + 1}" if self.lines else self.tree.source


def dump_yaml(data: Mapping[str, Any]) -> str:
    """YAML that ``parse_yaml`` reads back to the same tree, keys in the given order."""
    return yaml.safe_dump(dict(data), sort_keys=False, allow_unicode=True, width=110)


def leaves(tree: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The values of a parsed file by their dotted keys; a list without sections in it is one value."""
    if isinstance(tree, Mapping) and tree:
        for key, value in tree.items():
            yield from leaves(value, f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(tree, Sequence) and any(isinstance(item, Mapping) for item in tree):
        for index, item in enumerate(tree):
            yield from leaves(item, f"{prefix}.{index}")
    else:
        yield prefix, tree


def _dotted(path: KeyPath) -> str:
    return ".".join(map(str, path))


def _yaml_hint(error: yaml.MarkedYAMLError) -> str:
    problem = str(error.problem)
    if "\\t" in problem:
        return "indent with spaces, not with tabs"
    if "mapping values are not allowed" in problem:
        return "check the indentation, and quote a value that contains ': '"
    if "but found another document" in problem:
        return "one file holds one recipe: remove the line ---"
    return "check indentation, brackets and quotes there and on the line above"
