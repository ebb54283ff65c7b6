"""Losses by where they are: ``module:Class``, of this package or of anybody's."""

from __future__ import annotations

import dataclasses
import difflib
import importlib
from collections.abc import Mapping
from typing import Any

from distft.algorithms.losses.base import Loss


def build_loss(address: str, parameters: Mapping[str, Any]) -> Loss:
    """The loss at ``module:Class``, a dataclass whose fields are its parameters.

    Raises:
        ValueError: there is no such module or class, or no such parameter, with the nearest one that there is; or a
            value is out of range.
    """
    module_name, _, name = address.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise ValueError(f"loss {address}: cannot import {module_name}: {error}") from error
    found: Any = getattr(module, name, None)
    if not (isinstance(found, type) and dataclasses.is_dataclass(found) and callable(found)):
        there = [key for key, value in vars(module).items() if dataclasses.is_dataclass(value)]
        raise ValueError(f"{module_name} has no loss {name!r}{_nearest(name, there)}")
    known = [field.name for field in dataclasses.fields(found)]
    for key in parameters:
        if key not in known:
            raise ValueError(f"loss {address} has no parameter {key!r}{_nearest(key, known)}")
    build: Any = found
    loss: Loss = build(**parameters)
    return loss


def short_name(address: str) -> str:
    """The class of ``module:Class``, for people to read."""
    return address.rpartition(":")[2]


def _nearest(word: str, known: list[str]) -> str:
    found = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean {found[0]!r}?" if found else f"; known: {', '.join(known) or 'none'}"
