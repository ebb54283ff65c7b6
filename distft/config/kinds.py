"""Sections of which there are several kinds, told apart by a key that all of them have."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, get_args

from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

from distft.config.section import Section

_Base = TypeVar("_Base", bound=Section)


@dataclass(frozen=True, eq=False)
class Kinds(Generic[_Base]):
    """Beside a union: which of its classes is meant is what a section says under ``key``.

    ``base``: what all ``classes`` are; the first is meant where a section does not say its kind. ``refused``: kinds
    that others have and this has not, in lower case with underscores, and why.
    """

    key: str
    base: type[_Base]
    classes: tuple[type[_Base], ...]
    refused: Mapping[str, str]

    @property
    def by_name(self) -> dict[str, type[_Base]]:
        """Every class by its word for ``key``."""
        return {get_args(one.model_fields[self.key].annotation)[0]: one for one in self.classes}

    @property
    def branch(self) -> str:
        """What pydantic's names for the branches of the union begin with, where it says what is wrong in one."""
        return f"{self.key}="

    def meant(self, raw: Any) -> str:
        """The word for the kind of a section, as it is written or read."""
        default = next(iter(self.by_name))
        return str(raw.get(self.key, default) if isinstance(raw, Mapping) else getattr(raw, self.key, default))

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Called by pydantic."""
        choices = {f"{self.branch}{name}": handler.generate_schema(one) for name, one in self.by_name.items()}
        return core_schema.tagged_union_schema(choices, lambda raw: f"{self.branch}{self.meant(raw)}")
