"""AdamW."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from distft.config.optimizers.optimizer import Betas, Optimizer, State, StateDtype


class AdamW(Optimizer):
    """Adam (Kingma and Ba 2015) with a decay apart from the gradient (Loshchilov and Hutter 2019)."""

    name: Literal["adamw"] = Field(default="adamw", description="update rule")
    betas: Betas = Field(default=(0.9, 0.999), description="Adam's two decay rates")
    eps: float = Field(default=1e-8, gt=0, le=0.1, description="Adam's epsilon")
    state_dtype: StateDtype = Field(
        default="float32", description="precision of both moments between steps: bfloat16 takes 4 bytes a weight in "
        "place of 8, rounded up or down at random so that small changes add up"
    )  # fmt: skip

    @property
    def states(self) -> tuple[State, ...]:
        """The two moments."""
        return State("exp_avg", self.state_dtype), State("exp_avg_sq", self.state_dtype)
