"""The base of every recipe section: strict, frozen, no unknown keys."""

from __future__ import annotations

from typing import Annotated, Any, TypeAlias, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
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


class Section(BaseModel):
    """A part of the recipe. Numbers are numbers and texts are texts: nothing is converted in silence."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, validate_by_name=True, validate_by_alias=True
    )
