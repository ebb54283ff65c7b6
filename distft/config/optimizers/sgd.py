"""Stochastic gradient descent."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from distft.config.optimizers.optimizer import Optimizer, State


class Sgd(Optimizer):
    """Plain gradient descent, whose decay is added to the gradient."""

    name: Literal["sgd"] = Field(default="sgd", description="update rule")

    @property
    def states(self) -> tuple[State, ...]:
        """None."""
        return ()
