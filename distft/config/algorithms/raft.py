"""Rejection-sampling fine-tuning: the policy learns the best of its own answers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal

from pydantic import Field

from distft.config.data import ANSWERED, PAIRED, TURNS
from distft.config.method import PROMPTS, NamedLoss, Run, Traits
from distft.config.problem import Problem
from distft.config.role_table import Role
from distft.config.sampled import Grouped, sampled_phases

_ROLES: tuple[Role, ...] = ("policy", "reward")


class Raft(Grouped):
    """Reward-ranked fine-tuning (RAFT, Dong et al. 2023), the rejection sampling of Llama 2 (Touvron et al. 2023): of
    the answers to a prompt the best are kept, and supervised fine-tuning learns them."""

    traits: ClassVar[Traits] = Traits(
        roles=_ROLES,
        trained=("policy",),
        unit=PROMPTS,
        formats=("prompt", *ANSWERED, *PAIRED, *TURNS),
        losses={"policy": NamedLoss("distft.algorithms.losses.sft:Sft", keys=())},
        phases=sampled_phases(_ROLES, ("policy",)),
        credit="distft.experience.credit.best_of:best_of",
        aligns=True,
    )

    kind: Literal["raft"] = Field(description="rejection-sampling fine-tuning: SFT on the best of its own answers")
    keep: int = Field(default=1, ge=1, description="best answers to each prompt that are learned")
    min_score: float | None = Field(
        default=None, description="answers whose score is below it are not learned, best or not; null: no such limit"
    )

    def rules(self, run: Run) -> Iterator[Problem]:
        """Something is left out."""
        yield from super().rules(run)
        samples = run.rollout.samples_per_prompt
        if self.min_score is None and self.keep >= samples > 1:
            yield Problem.at(
                "algorithm.keep",
                f"{self.keep} of {samples} answers to a prompt are all of them: nothing is rejected",
                f"at most {samples - 1}; or algorithm.min_score",
            )

    def learned_samples(self, prompts: int, samples_per_prompt: int) -> int:
        """``keep`` of each prompt."""
        return prompts * min(self.keep, samples_per_prompt)
