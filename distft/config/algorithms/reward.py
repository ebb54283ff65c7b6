"""Reward models."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from distft.config.data import PAIRED
from distft.config.method import PAIRS, Method, NamedLoss, Phase, Traits, Work


class Reward(Method):
    """Reward model from preference pairs: ``-logsig(r_w - r_l - margin) + center_coef (r_w + r_l)^2``."""

    traits: ClassVar[Traits] = Traits(
        roles=("reward",),
        trained=("reward",),
        unit=PAIRS,
        formats=PAIRED,
        losses={"reward": NamedLoss("distft.algorithms.losses.reward:Reward", keys=("center_coef", "margin"))},
        phases=(Phase("update", (Work("reward", "update"),)),),
    )

    kind: Literal["reward"] = Field(description="reward model from preference pairs")
    loss: Literal["bradley_terry"] = Field(default="bradley_terry", description="loss of a pair")
    center_coef: float = Field(
        default=0.0, ge=0, le=10, description="weight of (chosen + rejected)^2, which keeps rewards around zero"
    )
    margin: float = Field(default=0.0, ge=0, description="reward difference demanded of every pair, beside its own")
