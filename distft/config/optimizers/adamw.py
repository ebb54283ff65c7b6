"""AdamW, its moments in 32, 16 or 8 bits."""

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


class EightBitAdamW(Optimizer):
    """AdamW whose moments are codes of 8 bits, 256 of which share a scale (Dettmers et al. 2022), by bitsandbytes."""

    name: Literal["adamw_8bit"] = Field(default="adamw_8bit", description="update rule")
    betas: Betas = Field(default=(0.9, 0.999), description="Adam's two decay rates")
    eps: float = Field(default=1e-8, gt=0, le=0.1, description="Adam's epsilon")
    paged: bool = Field(
        default=False, description="the moments lie in memory that a GPU's driver moves to the host where room is "
        "short (Dettmers et al. 2023); on a CPU that changes nothing"
    )  # fmt: skip

    @property
    def states(self) -> tuple[State, ...]:
        """The two moments."""
        return State("exp_avg", "blocks"), State("exp_avg_sq", "blocks")
