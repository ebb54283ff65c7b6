"""Odds-ratio preference optimisation."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from distft.config.data import PAIRED, RANKED
from distft.config.method import PAIRS, UPDATE_OF_POLICY, Method, NamedLoss, Traits


class Orpo(Method):
    """Odds-ratio preference optimisation: imitation and preference in one loss, no reference (Hong et al. 2024)."""

    traits: ClassVar[Traits] = Traits(
        roles=("policy",),
        trained=("policy",),
        unit=PAIRS,
        formats=(*PAIRED, *RANKED),
        losses={"policy": NamedLoss("distft.algorithms.losses.orpo:Orpo", keys=("beta",))},
        phases=(UPDATE_OF_POLICY,),
    )

    kind: Literal["orpo"] = Field(description="odds-ratio preference optimisation")
    beta: float = Field(default=0.1, gt=0, le=100, description="weight of the odds ratio's term; the paper's lambda")
    nll_scope: Literal["completion"] = Field(
        default="completion", description="tokens that are imitated: the chosen answer's, as in the paper"
    )
