"""Decoupled clip and dynamic sampling policy optimisation."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from distft.config.data import ANSWERED, PAIRED, TURNS
from distft.config.method import PROMPTS, NamedLoss, Traits
from distft.config.sampled import ClippedGroups, sampled_phases
from distft.config.training import Role

_ROLES: tuple[Role, ...] = ("policy", "reward")
_LOSS_KEYS = ("clip", "clip_high", "entropy_coef", "average", "constant_length")


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

    max_rounds: int = Field(
        default=10, ge=1, le=100,
        description="rounds of sampling at most that fill a batch with prompts whose answers differ in score",
    )  # fmt: skip
    kind: Literal["dapo"] = Field(description="decoupled clip and dynamic sampling policy optimisation")
    clip: float = Field(default=0.2, gt=0, lt=1, description="policy ratio is clipped to [1 - clip, 1 + clip_high]")
    clip_high: float | None = Field(default=0.28, gt=0, description="upper clip of the ratio; null: the same as clip")
    average: Literal["sequences", "tokens", "constant"] = Field(
        default="tokens",
        description="what the loss is averaged over: all tokens, as in the paper; the tokens of each response, then "
        "responses; or the same constant_length of every response",
    )
