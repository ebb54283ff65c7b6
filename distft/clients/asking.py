"""From a verb's declaration to a call: its arguments and its report are checked where the call is written.

    ask(group, ModelVerbs.forward, "values", each(micro_batches), batch=rows(samples.data))

``each`` and ``rows`` stand for what differs between ranks: there is a value of the declared type on every rank, though
no single one here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Concatenate, ParamSpec, TypeVar, cast

from distft.batches import Batch
from distft.common.verb import declaration
from distft.groups.handles import Call, DataRef, Group, Result

_Arguments = ParamSpec("_Arguments")
_Report = TypeVar("_Report")
_Value = TypeVar("_Value")


@dataclass(frozen=True)
class _Each:
    values: tuple[Any, ...]


@dataclass(frozen=True)
class _Rows:
    data: tuple[DataRef, ...]
    samples: Sequence[Sequence[int]] | None


def each(values: Sequence[_Value]) -> _Value:
    """An argument of which rank r gets ``values[r]``."""
    return cast(_Value, _Each(tuple(values)))


def rows(data: Sequence[DataRef], samples: Sequence[Sequence[int]] | None = None) -> Batch:
    """The columns of all of ``data``, of which rank r gets the rows ``samples[r]`` (all rows when None)."""
    return cast(Batch, _Rows(tuple(data), samples))


def ask(
    group: Group,
    verb: Callable[Concatenate[Any, _Arguments], tuple[_Report, Batch | None]],
    *args: _Arguments.args,
    **kwargs: _Arguments.kwargs,
) -> Call[Result[_Report]]:
    """The call of a declared verb, not started yet. What differs between ranks comes behind what is the same for all.

    Raises ValueError as ``Group.call``.
    """
    shared = [value for value in args if not isinstance(value, _Each)]
    own = [value.values for value in args if isinstance(value, _Each)]
    if any(isinstance(value, _Each) for value in (*args[: len(shared)], *kwargs.values())):
        raise TypeError(f"{declaration(verb).name}: `each` comes last of the arguments that are given by their place")
    named: dict[str, Any] = dict(kwargs)
    batch = named.pop("batch", _Rows((), None))
    return group.call(
        declaration(verb),
        *shared,
        each=list(zip(*own, strict=True)) if own else None,
        data=batch.data,
        samples=batch.samples,
        **named,
    )
