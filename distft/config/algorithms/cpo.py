"""Contrastive preference optimisation."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from distft.config.data import PAIRED, RANKED
from distft.config.method import PAIRS, UPDATE_OF_POLICY, Method, NamedLoss, Traits


class Cpo(Method):
    """Contrastive preference optimisation: DPO's loss without its reference, and imitation of the chosen answer (Xu et
    al. 2024)."""

    traits: ClassVar[Traits] = Traits(
        roles=("policy",),
        trained=("policy",),
        unit=PAIRS,
        formats=(*PAIRED, *RANKED),
        losses={"policy": NamedLoss("distft.algorithms.losses.cpo:Cpo")},
        phases=(UPDATE_OF_POLICY,),
        aligns=True,
    )

    kind: Literal["cpo"] = Field(description="contrastive preference optimisation")
    beta: float = Field(default=0.1, gt=0, le=100, description="scale of the difference of the log-probabilities")
    label_smoothing: float = Field(default=0.0, ge=0, lt=0.5, description="assumed share of flipped labels")
    nll_weight: float = Field(default=1.0, ge=0, le=100, description="weight of the chosen answer's NLL per token")
