"""Decoupled clip and dynamic sampling policy optimisation."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from distft.config.data import ANSWERED, PAIRED, TURNS
from distft.config.method import PROMPTS, NamedLoss, Traits
from distft.config.role_table import Role
from distft.config.sampled import ClippedGroups, sampled_phases

_ROLES: tuple[Role, ...] = ("policy", "reward")
_LOSS_KEYS = ("clip_low", "clip_high", "entropy_coef", "average", "constant_length")


class Dapo(ClippedGroups):
    """Decoupled clip and dynamic sampling policy optimisation (Yu et al. 2025): a higher upper clip, the mean over all
    tokens, no KL, others in the place of prompts whose answers are all right or all wrong; ``overlong_after`` and
    ``overlong_buffer`` are its soft punishment, 16,384 and 4,096 in the paper."""

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

    group_filter: Literal["none", "equal_scores"] = Field(
        default="equal_scores",
        description="prompts that are left out of a batch: those whose answers are equal in score, as in the paper; "
        "or none",
    )
    max_refills: int = Field(
        default=9, ge=0, le=100,
        description="times at most that an iteration samples anew to fill the places of what group_filter left out; "
        "0: its batch is smaller",
    )  # fmt: skip
    kind: Literal["dapo"] = Field(description="decoupled clip and dynamic sampling policy optimisation")
    clip_low: float = Field(
        default=0.2, gt=0, lt=1, description="policy ratio is clipped to [1 - clip_low, 1 + clip_high]"
    )
    clip_high: float | None = Field(
        default=0.28, gt=0, description="upper clip of the ratio; null: the same as clip_low"
    )
    average: Literal["sequences", "tokens", "constant"] = Field(
        default="tokens",
        description="what the loss is averaged over: all tokens, as in the paper; the tokens of each response, then "
        "responses; or the same constant_length of every response",
    )
