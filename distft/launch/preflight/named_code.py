"""Code that a recipe or an option names, looked up without importing it: user code runs in the workers only."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

from distft.common.errors import UserError, nearest

WHERE = "models.reward.functions"


def check_named_code(name: str, where: str = WHERE, *, files: bool = False) -> None:
    """``module:function`` names a Python file on the path that defines it; with ``files``, as environments are named,
    ``folder/file.py:Class`` does, too. Raises UserError, which says ``where`` it was named."""
    module, _, function = name.rpartition(":")
    is_file = files and module.endswith(".py")
    source = _file(module) if is_file else _source_of(module)
    if source is None:
        raise (_no_file if is_file else _no_module)(module, function, where)
    try:
        tree = ast.parse(source.read_text(encoding="utf-8"))
    except (OSError, ValueError, SyntaxError) as error:
        line = f":{error.lineno}" if isinstance(error, SyntaxError) and error.lineno else ""
        why = error.msg if isinstance(error, SyntaxError) else str(error)
        hint = f"python {source} shows the place"
        raise UserError(f"cannot be read: {why}", where=f"{source}{line}", hint=hint) from error
    names = set(_defined(tree))
    if function not in names and "*" not in names:
        close = nearest(function, names)
        raise UserError(
            f"{source} defines no {function}", where=where, hint=f"did you mean {module}:{close}?" if close else ""
        )


def _no_file(name: str, function: str, where: str) -> UserError:
    path = Path(name)
    close = nearest(path.name, [one.name for one in path.parent.glob("*.py")])
    hint = f"did you mean {path.parent / close}:{function}?" if close else "it is looked for beside the recipe and here"
    return UserError(f"there is no file {name}", where=where, hint=hint)


def _no_module(module: str, function: str, where: str) -> UserError:
    of_file = ".".join(Path(module).with_suffix("").parts)  # where a file was named
    close = of_file if _source_of(of_file) else nearest(module, [path.stem for path in Path.cwd().glob("*.py")])
    looked = f"looked for {module.replace('.', '/')}.py in {Path.cwd()} and on Python's path"
    hint = f"did you mean {close}:{function}?" if close else looked
    return UserError(f"there is no module {module}", where=where, hint=hint)


def _file(name: str) -> Path | None:
    return Path(name) if Path(name).is_file() else None


def _source_of(module: str) -> Path | None:
    """The file of a module, by the order in which Python would look; the working directory first."""
    parts = module.split(".")
    for entry in dict.fromkeys([str(Path.cwd()), *sys.path]):
        base = Path(entry or ".").joinpath(*parts)
        for candidate in (base / "__init__.py", base.with_name(base.name + ".py")):
            if candidate.is_file():
                return candidate
    return None


def _defined(tree: ast.Module) -> Iterator[str]:
    """Names that a module binds at its top level."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef):
            yield node.name
        elif isinstance(node, ast.Import | ast.ImportFrom):
            yield from ((alias.asname or alias.name).split(".")[0] for alias in node.names)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            yield from (target.id for target in targets if isinstance(target, ast.Name))
