"""Group relative policy optimisation, and Dr. GRPO."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from distft.config.data import ANSWERED, PAIRED, TURNS
from distft.config.method import PROMPTS, NamedLoss, Traits
from distft.config.role_table import Role
from distft.config.sampled import ClippedGroups, sampled_phases

_ROLES: tuple[Role, ...] = ("policy", "reference", "reward")
_LOSS_KEYS = ("clip_low", "clip_high", "kl_coef", "entropy_coef", "ratio", "surrogate", "average", "constant_length")


class Grpo(ClippedGroups):
    """Group relative policy optimisation (Shao et al. 2024); with ``scale_rewards: false`` and ``average: constant`` it
    is Dr. GRPO (Liu et al. 2025). Other kinds are options of the same loss with their papers' numbers, and have no
    reference; with a KL to one, they are this one with these options."""

    traits: ClassVar[Traits] = Traits(
        roles=_ROLES,
        trained=("policy",),
        unit=PROMPTS,
        formats=("prompt", *ANSWERED, *PAIRED, *TURNS),
        losses={"policy": NamedLoss("distft.algorithms.losses.clipped:ClippedPolicy", _LOSS_KEYS)},
        phases=sampled_phases(_ROLES, ("policy",)),
        credit="distft.experience.credit.group:group",
        aligns=True,
    )

    kind: Literal["grpo"] = Field(description="group relative policy optimisation")
    kl_coef: float = Field(
        default=0.04, ge=0, le=100, description="weight of the per-token KL (k3) in the loss; 0: only reported"
    )
    clip_low: float = Field(
        default=0.2, gt=0, lt=1, description="policy ratio is clipped to [1 - clip_low, 1 + clip_high]"
    )
    ratio: Literal["tokens", "sequences"] = Field(
        default="tokens", description="the ratio is each token's, or its geometric mean over a response"
    )
    surrogate: Literal["clipped", "weighted"] = Field(
        default="clipped", description="the clipped ratio, or log-probs weighted by it: no token is left out"
    )
