"""Some of the model's own weights, by name; BitFit among them."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import ClassVar, Literal

from pydantic import Field

from distft.config.adapters.adapter import Adapter
from distft.config.section import Items


class Selective(Adapter):
    """Weights of those names are trained and all others stay frozen. ``*.bias`` is BitFit (Ben Zaken et al. 2022)."""

    keeps_base: ClassVar[bool] = False

    method: Literal["selective"] = Field(description="kind of adapter")
    train: Items[str] = Field(
        min_length=1,
        description="names of weights that are trained, with * for anything: '*.bias' (BitFit), '*norm*', "
        "'*.layers.3?.*'; a scoring head always is",
    )

    def chooses(self, name: str) -> bool:
        """Whether the weight of that name is trained."""
        return any(fnmatchcase(name, pattern) for pattern in self.train)
