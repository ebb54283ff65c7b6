"""One thing that is wrong with what a user wrote."""

from __future__ import annotations

from dataclasses import dataclass

from distft.config.yaml_file import KeyPath


@dataclass(frozen=True)
class Problem:
    """The dotted key, what is wrong there, and the nearest right thing."""

    path: KeyPath
    what: str
    hint: str = ""

    @classmethod
    def at(cls, key: str, what: str, hint: str) -> Problem:
        """The problem at a dotted key; a part that is a number is a place in a list."""
        return cls(tuple(int(part) if part.isdecimal() else part for part in key.split(".")), what, hint)

    @property
    def key(self) -> str:
        """The dotted key."""
        return ".".join(map(str, self.path))
