"""The base of every recipe section: strict, frozen, no unknown keys."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Annotated, Any, TypeAlias, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

_Item = TypeVar("_Item")

# YAML has lists only; the recipe keeps them as tuples, so that nothing in it can be changed.
Items: TypeAlias = Annotated[tuple[_Item, ...], Field(strict=False)]


def _not_a_bool(value: Any) -> Any:
    """In Python ``True == 1``, so that a literal 1 would let ``true`` pass."""
    if isinstance(value, bool):
        raise PydanticCustomError("int_type", "a whole number, not true or false")
    return value


Numeral = BeforeValidator(_not_a_bool)


def from_home(path: str) -> str:
    """``~/x`` and ``~user/x`` as a shell writes them out, which it does not after the = of an override."""
    scheme, colon, rest = path.partition(":")
    return f"run:{os.path.expanduser(rest)}" if scheme + colon == "run:" else os.path.expanduser(path)


# A path as people write it: a folder, a file, a hub name, or one with a scheme (run:, builtin:).
WrittenPath: TypeAlias = Annotated[str, Field(min_length=1), AfterValidator(from_home)]


@dataclass(frozen=True)
class Usual:
    """Beside a number's type: the range that the literature recommends. Others are allowed, and remarked upon."""

    lowest: float
    highest: float


class Section(BaseModel):
    """A part of the recipe. Numbers are numbers and texts are texts: nothing is converted in silence."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, validate_by_name=True, validate_by_alias=True
    )
