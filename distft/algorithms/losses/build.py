"""A loss from its class and its parameters."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping
from typing import Any

from distft.algorithms.losses.base import Loss


def build_loss(kind: Any, parameters: Mapping[str, Any]) -> Loss:
    """The loss of a class, a dataclass whose fields are its parameters.

    Raises:
        ValueError: it is no loss, or has no such parameter, with the nearest one that it has; or a value is out of
            range.
    """
    if not (isinstance(kind, type) and dataclasses.is_dataclass(kind) and callable(getattr(kind, "finalize", None))):
        raise ValueError(f"{kind!r} is no loss: a dataclass as distft.algorithms.losses.base.Loss describes")
    known = [field.name for field in dataclasses.fields(kind)]
    for key in parameters:
        if key not in known:
            raise ValueError(f"loss {kind.__name__} has no parameter {key!r}{_nearest(key, known)}")
    build: Any = kind
    loss: Loss = build(**parameters)
    return loss


def _nearest(word: str, known: list[str]) -> str:
    found = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean {found[0]!r}?" if found else f"; known: {', '.join(known) or 'none'}"
