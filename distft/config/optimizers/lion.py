"""Lion."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from distft.config.optimizers.optimizer import Betas, Optimizer, State
from distft.config.section import Usual


class Lion(Optimizer):
    """The sign of a momentum (Chen et al. 2023): every weight moves by the learning rate, which they take three to ten
    times smaller than AdamW's, with so many times its decay."""

    name: Literal["lion"] = Field(default="lion", description="update rule")
    learning_rate: Annotated[float, Usual(1e-7, 3e-4)] = Field(
        default=1e-6, gt=0, le=1, description="highest learning rate of the schedule; a third to a tenth of AdamW's is "
        "usual, at most 3e-4"
    )  # fmt: skip
    betas: Betas = Field(
        default=(0.9, 0.99), description="share of the momentum in the update, and decay rate of the momentum"
    )

    @property
    def states(self) -> tuple[State, ...]:
        """The momentum."""
        return (State("exp_avg"),)
