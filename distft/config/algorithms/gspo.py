"""Group sequence policy optimisation."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from distft.config.data import ANSWERED, PAIRED, TURNS
from distft.config.method import PROMPTS, NamedLoss, Traits
from distft.config.role_table import Role
from distft.config.sampled import ClippedGroups, sampled_phases

_ROLES: tuple[Role, ...] = ("policy", "reward")
_LOSS_KEYS = ("clip_low", "clip_high", "entropy_coef", "average", "constant_length")


class Gspo(ClippedGroups):
    """Group sequence policy optimisation (Zheng et al. 2025): the ratio is a response's, the geometric mean of its
    tokens', so its clip is far narrower."""

    traits: ClassVar[Traits] = Traits(
        roles=_ROLES,
        trained=("policy",),
        unit=PROMPTS,
        formats=("prompt", *ANSWERED, *PAIRED, *TURNS),
        losses={
            "policy": NamedLoss("distft.algorithms.losses.clipped:ClippedPolicy", _LOSS_KEYS, {"ratio": "sequences"})
        },
        phases=sampled_phases(_ROLES, ("policy",)),
        credit="distft.experience.credit.group:group",
        aligns=True,
    )

    kind: Literal["gspo"] = Field(description="group sequence policy optimisation")
    clip_low: float = Field(
        default=3e-4, gt=0, lt=1, description="ratio of a response is clipped to [1 - clip_low, 1 + clip_high]"
    )
    clip_high: float | None = Field(
        default=4e-4, gt=0, description="upper clip of the ratio; null: the same as clip_low"
    )
