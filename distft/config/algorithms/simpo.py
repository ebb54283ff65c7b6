"""Simple preference optimisation."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from distft.config.data import PAIRED, RANKED
from distft.config.method import PAIRS, UPDATE_OF_POLICY, Method, NamedLoss, Traits


class Simpo(Method):
    """Simple preference optimisation: length-averaged log-probabilities, no reference (Meng et al. 2024)."""

    traits: ClassVar[Traits] = Traits(
        roles=("policy",),
        trained=("policy",),
        unit=PAIRS,
        formats=(*PAIRED, *RANKED),
        losses={"policy": NamedLoss("distft.algorithms.losses.simpo:Simpo")},
        phases=(UPDATE_OF_POLICY,),
        aligns=True,
    )

    kind: Literal["simpo"] = Field(description="simple preference optimisation")
    beta: float = Field(default=2.0, gt=0, le=100, description="scale of the length-averaged log-probabilities")
    gamma: float = Field(
        default=1.0, ge=0, description="margin demanded of every pair, in the units of the scaled difference"
    )
