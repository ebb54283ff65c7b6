"""A sparse difference to the weights: which numbers of it are not zero is learned with it."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from distft.config.adapters.adapter import LayerAdapter, Layers
from distft.config.section import Items

_TRANSIENT = 8  # matrices that exist at once where a difference's gradients are formed


class DiffPruning(LayerAdapter):
    """Diff pruning (Guo, Rush and Kim 2021): ``W + z * w``, where w is as large as W and z are gates between 0 and 1,
    drawn anew in each step from hard concrete distributions (Louizos et al. 2018), the share of which that is not zero
    is paid for. The paper's groups of gates (its structured variant) are not there."""

    method: Literal["diff_pruning"] = Field(description="kind of adapter")
    sparsity: float = Field(
        default=10.0,
        ge=0,
        description="weight of the expected share of numbers that are changed, which is added to the loss (the paper's "
        "1.25e-7 a number, of 335 million, is 42)",
    )
    gate_start: float = Field(default=5.0, ge=-10, le=10, description="what gates begin as: 5 is nearly always open")
    gate_rate_ratio: float = Field(
        default=1000.0, gt=0, le=1e6, description="learning rate of the gates as a multiple of the optimizer's"
    )
    target_share: float | None = Field(
        default=0.005,
        gt=0,
        le=1,
        description="of all numbers so many keep their change in the end, those with the largest ones (0.005 in the "
        "paper); null: those whose gates are open then",
    )
    final_steps: int = Field(
        default=0,
        ge=0,
        description="steps at the end in which it is settled which numbers are changed, and learned only by how much",
    )
    target_modules: Literal["all-linear"] | Items[str] = Field(
        default="all-linear", description="linear layers whose weights are changed, by the last part of their names"
    )

    def rate_ratio(self, name: str) -> float:
        """``gate_rate_ratio`` of gates, 1 of what they multiply."""
        return self.gate_rate_ratio if name.endswith(".gates") else 1.0

    def layers(self, model_type: str) -> Layers:  # noqa: ARG002 - the same of every model
        """Those that are named, or all."""
        return Layers(None if self.target_modules == "all-linear" else self.target_modules)

    def parameters(self, rows: int, columns: int, *, of_input: bool) -> dict[str, tuple[int, ...]]:  # noqa: ARG002
        """A change and a gate for each number; gates in a row, as what has one dimension is not decayed."""
        return {"values": (rows, columns), "gates": (rows * columns,)}

    def why_no_room(self, steps: int) -> tuple[str, str, str] | None:
        """Where so many steps of the optimizer leave none in which gates are learned: the key, what is wrong, what to
        write."""
        if self.final_steps < steps:
            return None
        return "final_steps", f"{self.final_steps} leave none of {steps} for the gates", f"at most {steps - 1}"

    def held(self, rows: int, columns: int) -> int:
        """Gates as they are once they are settled."""
        return rows * columns

    def kept(self, rows: int, columns: int, *, of_input: bool) -> tuple[int, int]:  # noqa: ARG002
        """What the layer reads."""
        return columns, 0

    def passing(self, rows: int, columns: int) -> int:
        """Gates that were drawn, the change, and the gradients of both."""
        return _TRANSIENT * rows * columns
