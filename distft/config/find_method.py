"""From ``algorithm.kind`` to the method.

One of the house is a file of ``config/algorithms``, by its name; one from outside is a class, by its address:
``package.module:Class`` or ``./file.py:Class``.
"""

from __future__ import annotations

import hashlib
import importlib
import pkgutil
from functools import cache
from pathlib import Path

from distft.common.addresses import file_of, files_behind, found_at
from distft.common.errors import UserError
from distft.config import algorithms
from distft.config.method import Method, Traits, is_from_outside

_MAKE_ONE = "class {name}(Method): with Method and Traits from distft.config.method, and traits = Traits(...) in it"


@cache
def built_in_kinds() -> tuple[str, ...]:
    """The kinds that come with the house: a file each."""
    return tuple(sorted(module.name for module in pkgutil.iter_modules(algorithms.__path__)))


@cache
def method_of(kind: str) -> type[Method]:
    """The class of a kind. KeyError for one that there is not; UserError for an address where there is no method."""
    if is_from_outside(kind):
        return _from_outside(kind)
    if kind not in built_in_kinds():
        raise KeyError(kind)
    module = importlib.import_module(f"{algorithms.__name__}.{kind}")
    [found] = [one for one in vars(module).values() if isinstance(one, type) and issubclass(one, Method)
               and one.__module__ == module.__name__]  # fmt: skip
    return found


def traits_of(kind: str) -> Traits:
    """The traits of a kind. Raises as ``method_of``."""
    return method_of(kind).traits


def in_full(kind: str, folder: Path, *, kept: bool = False) -> str:
    """A kind, or an environment's name, as any process understands it: a file's path absolute, looked for in
    ``folder``, the recipe's, and else in the working folder. One that a run has ``kept`` may have moved: it is looked
    for there too, and is known by the hash of its code."""
    place, _, name = kind.rpartition(":")
    if not place.endswith(".py"):
        return kind
    if kept and not Path(place).is_file():
        place = Path(place).name
    beside, here = (Path(one, Path(place).expanduser()).absolute() for one in (folder, Path.cwd()))
    return f"{here if here.is_file() and not beside.is_file() else beside}:{name}"


def code_of(kind: str) -> str | None:
    """A hash of the files that a method from outside is written in, its losses' and what these import from beside
    themselves included; None for one of the house. Files of installed packages beside the method's own count too."""
    if not is_from_outside(kind):
        return None
    addresses = [kind, *_named_by(method_of(kind))]
    house = Path(algorithms.__path__[0]).parents[1]
    files = {path for one in addresses if (place := file_of(one)) is not None for path in files_behind(place, house)}
    return hashlib.sha256(b"\0".join(path.read_bytes() for path in sorted(files))).hexdigest()


def _from_outside(kind: str) -> type[Method]:
    found, name = found_at(kind), kind.rpartition(":")[2]
    if not (isinstance(found, type) and issubclass(found, Method)):
        raise UserError("is no method", where=kind, hint=_MAKE_ONE.format(name=name))
    if not isinstance(getattr(found, "traits", None), Traits):
        raise UserError("has no traits", where=kind, hint=_MAKE_ONE.format(name=name))
    found.home = kind.rpartition(":")[0]
    for address in _named_by(found):
        if address.startswith(f"{found.home}:"):
            found_at(address)
        elif file_of(address) is None:
            what = f"{kind} names {address}, whose module is not there"
            raise UserError(what, where=kind, hint="package.module:Name, or :Name for what stands beside the method")
    return found


def _named_by(method: type[Method]) -> list[str]:
    """The addresses of a method's losses and of its credit."""
    traits = method.traits
    said = [*(loss.address for loss in traits.losses.values()), *([traits.credit] if traits.credit else [])]
    return [method.address(one) for one in said]
