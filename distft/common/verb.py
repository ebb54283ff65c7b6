"""A verb: what a group's workers can be asked for, declared once, beside its signature.

A class whose methods are declared with ``verb`` says what workers answer to; the workers derive from it, and whoever
asks names the method (``ModelVerbs.forward``), so that a type checker knows its arguments and its report.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias, TypeVar

Kind: TypeAlias = Literal["setup", "long", "usual"]
Ranks: TypeAlias = Literal["first", "all"]
DevicePart: TypeAlias = Literal["weights", "states"]
Recalled: TypeAlias = Literal["no", "latest", "begins", "follows", "ends", "renewed"]
_Declared = TypeVar("_Declared", bound=Callable[..., Any])


@dataclass(frozen=True)
class Verb:
    """How a verb is dispatched.

    ``deadline``: "setup" loads things (the start deadline holds each time), "long" writes or reads
    much (the start deadline holds the first time), "usual" is computing.
    ``reports``: "first" keeps the reports of the other ranks at home. ``ranks``: who runs it.
    ``on_device``: needs the group's devices, so a group sharing them sleeps meanwhile; ``states``: needs what the
    optimizer keeps there too.
    ``recalled``: whether it must be asked again of a worker that takes a dead one's place, for what it leaves there:
    "latest" the last such call; "begins" and "follows" all calls since the last beginning, until one that "ends" them;
    "renewed" takes others than the group, and is done again by who asked for it.
    """

    name: str
    deadline: Kind = "usual"
    reports: Ranks = "all"
    ranks: Ranks = "all"
    on_device: bool = True
    states: bool = False
    recalled: Recalled = "no"


def verb(
    *,
    deadline: Kind = "usual",
    reports: Ranks = "all",
    ranks: Ranks = "all",
    on_device: bool = True,
    states: bool = False,
    recalled: Recalled = "no",
) -> Callable[[_Declared], _Declared]:
    """Declares a method as a verb; see ``Verb``."""

    def declare(method: _Declared) -> _Declared:
        declaration = Verb(method.__name__, deadline, reports, ranks, on_device, states, recalled)
        method.declaration = declaration  # type: ignore[attr-defined]
        return method

    return declare


def declaration(method: Callable[..., Any]) -> Verb:
    """What a method was declared as. AttributeError for one that is no verb."""
    found: Verb = method.declaration  # type: ignore[attr-defined]
    return found


def verbs_of(kind: type) -> dict[str, Verb]:
    """The verbs that a class and those above it declare, by name."""
    declared: dict[str, Verb] = {}
    for name in dir(kind):
        found = getattr(getattr(kind, name), "declaration", None)
        if isinstance(found, Verb):
            declared[name] = found
    return declared


class Ending(Protocol):
    """What groups ask of every worker by themselves."""

    @verb(reports="first", on_device=False)
    def close(self) -> tuple[None, None]:
        """Leaves the other ranks in good order."""
        ...


class OnDevice(Ending, Protocol):
    """What groups ask by themselves of workers that share devices with others."""

    @verb(deadline="long", reports="first", on_device=False)
    def sleep(self, parts: Collection[DevicePart]) -> tuple[Any, None]:
        """Gives those parts of the device's memory to another role."""
        ...

    @verb(deadline="long", reports="first", on_device=False)
    def wake(self, parts: Collection[DevicePart]) -> tuple[Any, None]:
        """Takes them back."""
        ...
