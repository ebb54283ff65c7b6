"""What each kind of adapter says of the parameters that lie in a model; where they only stand there as modules that are
called, the defaults hold."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn


def _as_the_model_calls_it(name: str) -> str:
    return name


def _nothing(_part: Any) -> Iterator[tuple[nn.Module, nn.Parameter]]:
    return iter(())


def _no_weight(_part: Any, _own: Mapping[str, Tensor], _learned: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {}


@dataclass(frozen=True)
class Kind:
    """``mark``: the attribute that tells a part which holds such parameters; ``suffixes``: how their names end.

    ``saved_name``: a parameter's name in a file. ``read_from_outside``: of a part, see ``adapt.read_from_outside``.
    ``merged``: of a part, the tensors of its base layer by name, and what was learned by suffix, those tensors with
    that in them, where a weight of the model can compute as both do.
    """

    mark: str
    suffixes: tuple[str, ...]
    saved_name: Callable[[str], str] = _as_the_model_calls_it
    read_from_outside: Callable[[Any], Iterator[tuple[nn.Module, nn.Parameter]]] = _nothing
    merged: Callable[[Any, Mapping[str, Tensor], Mapping[str, Tensor]], dict[str, Tensor]] = _no_weight
