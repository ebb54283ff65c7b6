"""REINFORCE leave-one-out."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from distft.config.data import ANSWERED, PAIRED, TURNS
from distft.config.method import PROMPTS, NamedLoss, Traits
from distft.config.role_table import Role
from distft.config.sampled import Grouped, StopsAtKl, sampled_phases

_ROLES: tuple[Role, ...] = ("policy", "reference", "reward")


class Rloo(StopsAtKl, Grouped):
    """REINFORCE leave-one-out (Ahmadian et al. 2024): the other answers to a prompt are the baseline."""

    traits: ClassVar[Traits] = Traits(
        roles=_ROLES,
        trained=("policy",),
        unit=PROMPTS,
        formats=("prompt", *ANSWERED, *PAIRED, *TURNS),
        losses={"policy": NamedLoss("distft.algorithms.losses.rloo:RlooPolicy", ("clip_low", "clip_high"))},
        phases=sampled_phases(_ROLES, ("policy",)),
        credit="distft.experience.credit.leave_one_out:leave_one_out",
        aligns=True,
    )

    kind: Literal["rloo"] = Field(description="REINFORCE leave-one-out")
    kl_coef: float = Field(
        default=0.05, ge=0, le=100, description="weight of a response's KL in its reward; 0: only reported"
    )
    clip_low: float = Field(
        default=0.2, gt=0, lt=1, description="ratio of a response is clipped to [1 - clip_low, 1 + clip_high]"
    )
    clip_high: float | None = Field(
        default=None, gt=0, description="upper clip of the ratio; null: the same as clip_low"
    )
