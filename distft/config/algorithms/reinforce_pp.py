"""REINFORCE++, and its variant with the group's mean as baseline."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, Literal

from pydantic import Field

from distft.config.data import ANSWERED, PAIRED, TURNS
from distft.config.method import PROMPTS, NamedLoss, Run, Traits
from distft.config.problem import Problem
from distft.config.role_table import Role
from distft.config.sampled import Rewarded, StopsAtKl, sampled_phases

_ROLES: tuple[Role, ...] = ("policy", "reference", "reward")
_LOSS_KEYS = ("clip_low", "clip_high", "entropy_coef", "kl_coef")


class ReinforcePp(StopsAtKl, Rewarded):
    """REINFORCE++ (Hu et al. 2025): discounted returns of the tokens, whitened over the whole rollout batch, by PPO's
    clipped loss; with ``baseline: group`` the mean score of a prompt's answers is taken off first.

    The KL is in the reward of every token (k1); with the baseline it is a term of the loss (k2), as in the paper.
    """

    traits: ClassVar[Traits] = Traits(
        roles=_ROLES,
        trained=("policy",),
        unit=PROMPTS,
        formats=("prompt", *ANSWERED, *PAIRED, *TURNS),
        losses={
            "policy": NamedLoss(
                "distft.algorithms.losses.clipped:ClippedPolicy",
                _LOSS_KEYS,
                {"average": "tokens", "kl_estimator": "k2"},
            )
        },
        phases=sampled_phases(_ROLES, ("policy",)),
        credit="distft.experience.credit.whitened_returns:whitened_returns",
        aligns=True,
    )

    kind: Literal["reinforce_pp"] = Field(description="REINFORCE++")
    baseline: Literal["none", "group"] = Field(
        default="none", description="taken off a score: nothing, or the mean score of the answers to its prompt"
    )
    kl_coef: float = Field(
        default=0.01, ge=0, le=100, description="weight of the KL, in the reward or (baseline: group) in the loss"
    )
    gamma: float = Field(default=1.0, ge=0, le=1, description="discount per response token")
    clip_low: float = Field(
        default=0.2, gt=0, lt=1, description="policy ratio is clipped to [1 - clip_low, 1 + clip_high]"
    )
    clip_high: float | None = Field(
        default=None, gt=0, description="upper clip of the ratio; null: the same as clip_low"
    )
    entropy_coef: float = Field(default=0.0, ge=0, le=10, description="weight of the entropy bonus")
    importance_cap: float | None = Field(
        default=None, ge=1,
        description="tokens weigh min(trainer's probability / generator's, this), which corrects for a generator that "
        "computes a little differently (2 is usual); null: not corrected",
    )  # fmt: skip

    def rules(self, run: Run) -> Iterator[Problem]:
        """A baseline needs several answers."""
        yield from super().rules(run)
        if self.baseline == "group" and run.rollout.samples_per_prompt < 2:
            yield Problem.at(
                "rollout.samples_per_prompt",
                "is 1: the baseline is the mean of the answers to a prompt",
                "at least 2; or algorithm.baseline: none",
            )

    def loss_of(self, role: Role) -> tuple[str, dict[str, Any]]:
        """Without a baseline the KL has been paid in the reward."""
        address, parameters = super().loss_of(role)
        return address, parameters if self.baseline == "group" else {**parameters, "kl_coef": 0.0}
