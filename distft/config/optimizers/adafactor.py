"""Adafactor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field

from distft.config.optimizers.optimizer import Optimizer, State
from distft.config.section import Usual


class Adafactor(Optimizer):
    """Of a matrix the second moment as a product of its rows' and its columns', no first one (Shazeer and Stern 2018).

    Weights move by the learning rate, at most 1 / sqrt(step), times the root mean square of their matrix, at least
    0.001. Needs whole matrices: stage 0.
    """

    name: Literal["adafactor"] = Field(default="adafactor", description="update rule")
    learning_rate: Annotated[float, Usual(1e-3, 1e-2)] = Field(
        default=1e-6, gt=0, le=1, description="highest learning rate of the schedule, a share of each matrix's root "
        "mean square; 1e-3 to 1e-2 is usual"
    )  # fmt: skip

    @property
    def states(self) -> tuple[State, ...]:
        """The two factors of matrices, and the second moment of all else."""
        return State("row_var", of="rows"), State("col_var", of="columns"), State("variance")

    def states_beside(self, shape: Sequence[int], *, in_layers: bool) -> tuple[State, ...]:  # noqa: ARG002
        """Those of a weight of that shape."""
        *factors, variance = self.states
        return tuple(factors) if len(shape) > 1 else (variance,)
