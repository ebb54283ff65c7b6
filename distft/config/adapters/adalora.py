"""Low-rank adapters that find out which matrices need how much rank."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from distft.config.adapters.adapter import LayerAdapter, Layers
from distft.config.section import Items


class AdaLora(LayerAdapter):
    """AdaLoRA (Zhang et al. 2023): ``W + alpha / r * B E A`` with E diagonal. In each step those numbers of E that
    matter least, of all matrices together, become zero, until ``target_r`` are left of a matrix in the mean; A and B
    are held near orthogonal. Between searches, as in PEFT, the optimizer moves those that became zero, too; after the
    last step they are zero."""

    method: Literal["adalora"] = Field(description="kind of adapter")
    r: int = Field(default=12, ge=2, le=4096, description="rank of the update of each matrix at first")
    target_r: int = Field(default=8, ge=1, le=4096, description="what is left of it in the mean")
    alpha: float = Field(default=32.0, gt=0, description="the update's scale is alpha / r")
    initial_steps: int = Field(default=0, ge=0, description="steps of the optimizer before the search begins")
    final_steps: int = Field(default=0, ge=0, description="steps at the end in which what is left stays the same")
    search_every: int = Field(default=1, ge=1, description="steps from one search to the next")
    beta1: float = Field(default=0.85, gt=0, lt=1, description="how much of what mattered before counts")
    beta2: float = Field(default=0.85, gt=0, lt=1, description="how much of how uncertain that was before counts")
    orthogonality: float = Field(default=0.5, ge=0, description="weight of how far A and B are from orthogonal")
    target_modules: Literal["all-linear"] | Items[str] = Field(
        default="all-linear", description="linear layers with an adapter, by the last part of their names"
    )

    def layers(self, model_type: str) -> Layers:  # noqa: ARG002 - the same of every model
        """Those that are named, or all."""
        return Layers(None if self.target_modules == "all-linear" else self.target_modules)

    def parameters(self, rows: int, columns: int, *, of_input: bool) -> dict[str, tuple[int, ...]]:  # noqa: ARG002
        """``A [r, columns]``, ``E [r, 1]`` and ``B [rows, r]``."""
        return {"lora_A": (self.r, columns), "lora_E": (self.r, 1), "lora_B": (rows, self.r)}

    def why_no_search(self, steps: int) -> tuple[str, str, str] | None:
        """Where so many steps of the optimizer leave none for the search: the key, what is wrong, what to write."""
        last = steps - self.final_steps
        if last <= self.initial_steps:
            what = f"{self.initial_steps} and final_steps {self.final_steps} leave none of {steps} for the search"
            return "initial_steps", what, "fewer of both, or more train.steps"
        first = (self.initial_steps // self.search_every + 1) * self.search_every
        if self.search_every > 1 and first >= last:
            what = f"{self.search_every} has no search after step {self.initial_steps} and before step {last}"
            return "search_every", what, f"at most {max(1, last - self.initial_steps - 1)}"
        return None

    def held(self, rows: int, columns: int) -> int:
        """Of all of that how much it mattered and how uncertain that is, and PEFT's count of the rank."""
        return 2 * self.r * (rows + columns + 1) + 1

    def kept(self, rows: int, columns: int, *, of_input: bool) -> tuple[int, int]:  # noqa: ARG002
        """What E A makes."""
        return self.r, 0

    def passing(self, rows: int, columns: int) -> int:  # noqa: ARG002
        """``E A``."""
        return self.r * columns
