"""From ``algorithm.kind`` to the method: a file of ``config/algorithms`` by its name."""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache

from distft.config import algorithms
from distft.config.method import Method, Traits


@cache
def built_in_kinds() -> tuple[str, ...]:
    """The kinds that come with the house: a file each."""
    return tuple(sorted(module.name for module in pkgutil.iter_modules(algorithms.__path__)))


@cache
def method_of(kind: str) -> type[Method]:
    """The class of a kind. KeyError for one that there is not."""
    if kind not in built_in_kinds():
        raise KeyError(kind)
    module = importlib.import_module(f"{algorithms.__name__}.{kind}")
    [found] = [one for one in vars(module).values() if isinstance(one, type) and issubclass(one, Method)
               and one.__module__ == module.__name__]  # fmt: skip
    return found


def traits_of(kind: str) -> Traits:
    """The traits of a kind. KeyError for one that there is not."""
    return method_of(kind).traits
