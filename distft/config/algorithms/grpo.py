"""Group relative policy optimisation, and Dr. GRPO."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal

from pydantic import Field

from distft.config.data import ANSWERED, PAIRED, TURNS
from distft.config.method import PROMPTS, NamedLoss, Run, Traits
from distft.config.problem import Problem
from distft.config.sampled import Sampled, grouped, sampled_phases
from distft.config.training import Role

_ROLES: tuple[Role, ...] = ("policy", "reference", "reward")


class Grpo(Sampled):
    """Group relative policy optimisation (Shao et al. 2024); with ``scale: false`` and ``average: constant`` it is
    Dr. GRPO (Liu et al. 2025)."""

    traits: ClassVar[Traits] = Traits(
        roles=_ROLES,
        trained=("policy",),
        unit=PROMPTS,
        formats=("prompt", *ANSWERED, *PAIRED, *TURNS),
        losses={
            "policy": NamedLoss(
                "distft.algorithms.losses.grpo:GrpoPolicy",
                ("clip", "clip_high", "kl_coef", "entropy_coef", "average", "constant_length"),
            )
        },
        phases=sampled_phases(_ROLES, ("policy",)),
        credit="distft.experience.credit.group:group",
        aligns=True,
    )

    kind: Literal["grpo"] = Field(description="group relative policy optimisation")
    scale: bool = Field(default=True, description="advantages over the deviation of their group (Dr. GRPO: false)")
    average: Literal["sequences", "tokens", "constant"] = Field(
        default="sequences",
        description="what the loss is averaged over: the tokens of each response, then responses; all tokens; "
        "or the same constant_length of every response (Dr. GRPO)",
    )
    constant_length: int | None = Field(default=None, ge=1, description="see average: constant; null: not that")
    kl_coef: float = Field(
        default=0.04, ge=0, le=100, description="weight of the per-token KL (k3) in the loss; 0: only reported"
    )
    clip: float = Field(default=0.2, gt=0, lt=1, description="policy ratio is clipped to [1 - clip, 1 + clip_high]")
    clip_high: float | None = Field(default=None, gt=0, description="upper clip of the ratio; null: the same as clip")
    entropy_coef: float = Field(default=0.0, ge=0, le=10, description="weight of the entropy bonus")
    importance_cap: float | None = Field(
        default=None, ge=1,
        description="tokens weigh min(trainer's probability / generator's, this), which corrects for a generator that "
        "computes a little differently (2 is usual); null: not corrected",
    )  # fmt: skip

    def rules(self, run: Run) -> Iterator[Problem]:
        """A group has several answers; the constant is there where it is divided by, and only there."""
        yield from super().rules(run)
        yield from grouped(run)
        if self.average == "constant" and self.constant_length is None:
            yield Problem.at(
                "algorithm.constant_length",
                "is missing: average: constant divides by it",
                f"{run.rollout.max_new_tokens}, as rollout.max_new_tokens",
            )
        if self.average != "constant" and self.constant_length is not None:
            yield Problem.at(
                "algorithm.constant_length", f"has no effect with average: {self.average}", "average: constant"
            )
