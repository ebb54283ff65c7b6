"""Clipped importance sampling policy optimisation."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from distft.config.data import ANSWERED, PAIRED, TURNS
from distft.config.method import PROMPTS, NamedLoss, Traits
from distft.config.role_table import Role
from distft.config.sampled import ClippedGroups, sampled_phases

_ROLES: tuple[Role, ...] = ("policy", "reward")
_LOSS_KEYS = ("clip_high", "entropy_coef", "average", "constant_length")


class Cispo(ClippedGroups):
    """Clipped importance sampling policy optimisation (MiniMax 2025): log-probs weighted by the clipped ratio, so that
    every token keeps its gradient; the mean over all tokens, no KL."""

    traits: ClassVar[Traits] = Traits(
        roles=_ROLES,
        trained=("policy",),
        unit=PROMPTS,
        formats=("prompt", *ANSWERED, *PAIRED, *TURNS),
        losses={
            "policy": NamedLoss("distft.algorithms.losses.clipped:ClippedPolicy", _LOSS_KEYS, {"surrogate": "weighted"})
        },
        phases=sampled_phases(_ROLES, ("policy",)),
        credit="distft.experience.credit.group:group",
        aligns=True,
    )

    kind: Literal["cispo"] = Field(description="clipped importance sampling policy optimisation")
    clip_high: float | None = Field(
        default=4.0,
        gt=0,
        description="weight of a token is its ratio, 1 + clip_high at most; the paper gives no number",
    )
    average: Literal["sequences", "tokens", "constant"] = Field(
        default="tokens",
        description="what the loss is averaged over: all tokens, as in the paper; the tokens of each response, then "
        "responses; or the same constant_length of every response",
    )
