"""Reward models."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from distft.config.data import MOST_ANSWERS, PAIRED, RANKED
from distft.config.method import PAIRS, Method, NamedLoss, Phase, Traits, Work
from distft.config.role_table import Role

_KEYS = ("center_coef", "margin")
_RANKINGS = "distft.algorithms.losses.rankings:Rankings"


class Reward(Method):
    """Reward model from preference pairs: ``-logsig(r_w - r_l - margin) + center_coef (r_w + r_l)^2``; of rankings the
    mean over all pairs of a prompt (Ouyang et al. 2022)."""

    traits: ClassVar[Traits] = Traits(
        roles=("reward",),
        trained=("reward",),
        unit=PAIRS,
        formats=(*PAIRED, *RANKED),
        losses={"reward": NamedLoss("distft.algorithms.losses.reward:Reward", keys=_KEYS)},
        phases=(Phase("update", (Work("reward", "update"),)),),
    )

    kind: Literal["reward"] = Field(description="reward model from preference pairs or rankings")
    loss: Literal["bradley_terry"] = Field(default="bradley_terry", description="loss of a pair")
    center_coef: float = Field(
        default=0.0, ge=0, le=10, description="weight of (chosen + rejected)^2, which keeps rewards around zero"
    )
    margin: float = Field(default=0.0, ge=0, description="reward difference demanded of every pair, beside its own")
    max_answers: int = Field(
        default=2, ge=2, le=MOST_ANSWERS,
        description="most answers to one prompt, all of which share a micro-batch: 2 of pairs, more of rankings",
    )  # fmt: skip

    def unit_rows(self) -> int:
        """All answers to a prompt."""
        return self.max_answers

    def loss_of(self, role: Role) -> tuple[str, dict[str, Any]]:
        """Of rankings their own, which with two answers is the other."""
        address, parameters = super().loss_of(role)
        return (_RANKINGS if self.max_answers > 2 else address), parameters
