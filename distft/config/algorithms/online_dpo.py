"""Direct preference optimisation on pairs of the policy's own answers."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from distft.config.data import ANSWERED, PAIRED, TURNS
from distft.config.method import PROMPTS, NamedLoss, Traits
from distft.config.pair_losses import LOSS_KEYS, PairLosses
from distft.config.role_table import Role
from distft.config.sampled import Grouped, sampled_phases

_ROLES: tuple[Role, ...] = ("policy", "reference", "reward")


class OnlineDpo(PairLosses, Grouped):
    """Online DPO (Guo et al. 2024): of the answers to a prompt the best and the worst by score are a pair, and the
    losses of DPO learn from it. Several updates of an iteration's pairs (``epochs``, ``minibatches``) are iterative DPO
    (Xu et al. 2023; Xiong et al. 2024), with ``sync_every`` against a reference that follows."""

    traits: ClassVar[Traits] = Traits(
        roles=_ROLES,
        trained=("policy",),
        unit=PROMPTS,
        formats=("prompt", *ANSWERED, *PAIRED, *TURNS),
        losses={"policy": NamedLoss("distft.algorithms.losses.dpo:Dpo", LOSS_KEYS)},
        phases=sampled_phases(_ROLES, ("policy",)),
        credit="distft.experience.credit.best_and_worst:best_and_worst",
        aligns=True,
    )

    kind: Literal["online_dpo"] = Field(description="DPO on the best and the worst of its own answers")

    def unit_rows(self) -> int:
        """A pair."""
        return 2

    def learned_samples(self, prompts: int, samples_per_prompt: int) -> int:  # noqa: ARG002 - two of however many
        """A pair of each prompt."""
        return 2 * prompts
