"""Some of the model's own weights, by name; BitFit among them."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import ClassVar, Literal

from pydantic import Field

from distft.config.adapters.adapter import Adapter
from distft.config.section import Items


class OwnWeights(Adapter):
    """Weights of the model's own are trained, those whose names match ``train``, and all others stay frozen."""

    keeps_base: ClassVar[bool] = False

    train: Items[str]

    def chooses(self, name: str) -> bool:
        """Whether the weight of that name is trained."""
        return any(fnmatchcase(name, pattern) for pattern in self.train)


class Selective(OwnWeights):
    """Weights by patterns of their names."""

    method: Literal["selective"] = Field(description="kind of adapter")
    train: Items[str] = Field(
        min_length=1,
        description="names of weights that are trained, with * for anything: '*norm*', '*.layers.3?.*'; a scoring head "
        "always is",
    )


class BitFit(OwnWeights):
    """Biases alone (Ben Zaken et al. 2022)."""

    method: Literal["bitfit"] = Field(description="kind of adapter")
    train: Items[str] = Field(
        default=("*.bias",),
        min_length=1,
        description="names of weights that are trained, with * for anything; a scoring head always is",
    )
