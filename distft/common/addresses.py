"""What others wrote, found by its address: ``package.module:Name``, or ``folder/file.py:Name``."""

from __future__ import annotations

import ast
import hashlib
import importlib
import importlib.util
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from distft.common.errors import UserError, nearest


def found_at(address: str) -> Any:
    """The class or function at an address. A module is looked for in the working folder too, as Python does for a
    script; a file is imported once in a process.

    Raises UserError: no such file, module or name, with the nearest one, or what importing it raised.
    """
    place, _, name = address.rpartition(":")
    module = _file(Path(place).absolute()) if place.endswith(".py") else _module(place)
    found = getattr(module, name, None)
    if found is None:
        own = [key for key, value in vars(module).items() if getattr(value, "__module__", "") == module.__name__]
        close = nearest(name, own)
        hint = f"did you mean {place}:{close}?" if close else f"it has: {', '.join(own) or 'nothing of its own'}"
        raise UserError(f"{place} has no {name}", where=address, hint=hint)
    return found


def file_of(address: str) -> Path | None:
    """The file that an address stands in, without importing it; None where there is none to be found."""
    place = address.rpartition(":")[0]
    if place.endswith(".py"):
        return Path(place).absolute()
    _look_here()
    try:
        spec = importlib.util.find_spec(place)
    except (ImportError, ValueError):
        return None
    return Path(spec.origin) if spec is not None and spec.origin else None


def files_behind(path: Path, but: Path) -> set[Path]:
    """A Python file, and those that it imports from beside it (for a module, from its own package), and so on; ``but``
    nothing below that folder. Read, not run: it is the same in every process."""
    found, waiting = set[Path](), [path]
    while waiting:
        one = waiting.pop()
        if one not in found and not one.is_relative_to(but):
            found.add(one)
            waiting += _imported_from_beside(one)
    return found


def _imported_from_beside(path: Path) -> Iterator[Path]:
    try:
        tree = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError):  # which is said where it is imported
        return
    top = path.parent
    while (top / "__init__.py").is_file():
        top = top.parent
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from _files_of(top, [alias.name for alias in node.names])
        elif isinstance(node, ast.ImportFrom):
            start = path.parents[node.level - 1] if node.level else top
            names = [alias.name for alias in node.names]
            base = f"{node.module}." if node.module else ""
            yield from _files_of(start, [*([node.module] if node.module else []), *(base + name for name in names)])


def _files_of(start: Path, modules: Iterable[str]) -> Iterator[Path]:
    """The files of dotted modules below a folder, those of the packages on the way included."""
    for module in modules:
        parts = module.split(".")
        for number in range(1, len(parts) + 1):
            place = start.joinpath(*parts[:number])
            yield from (one for one in (place.with_suffix(".py"), place / "__init__.py") if one.is_file())


def _file(path: Path) -> ModuleType:
    name = f"distft_file_{hashlib.sha256(str(path).encode()).hexdigest()[:16]}"
    if name in sys.modules:
        return sys.modules[name]
    if not path.is_file():
        there = [one.name for one in path.parent.glob("*.py")] if path.parent.is_dir() else []
        close = nearest(path.name, there)
        hint = f"did you mean {path.parent / close}?" if close else "it is looked for beside the recipe and here"
        raise UserError(f"there is no file {path}", where=str(path), hint=hint)
    if str(path.parent) not in sys.path:  # for what it imports from beside itself; behind everything else
        sys.path.append(str(path.parent))
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise _broken(str(path), error, f"python {path}") from error
    return module


def _module(name: str) -> ModuleType:
    _look_here()
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not (name == error.name or name.startswith(f"{error.name}.")):
            raise _broken(name, error, f"python -c 'import {name}'") from error
        hint = f"is it installed here? it is looked for in {Path.cwd()} and on Python's path"
        raise UserError(f"there is no module {error.name}", where=name, hint=hint) from error
    except Exception as error:
        raise _broken(name, error, f"python -c 'import {name}'") from error


def _broken(place: str, error: Exception, shown_by: str) -> UserError:
    return UserError(f"cannot be imported: {type(error).__name__}: {error}", where=place, hint=f"{shown_by} shows it")


def _look_here() -> None:
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
