"""Muon."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal

from pydantic import Field

from distft.config.optimizers.layer_names import layer_of
from distft.config.optimizers.optimizer import Betas, Decay, Optimizer, State

# How often the polynomial of Newton and Schulz is applied.
ITERATIONS: Final = 5
# Of what lies in layers, what is looked up and not multiplied with.
_LOOKED_UP: Final = ("embed", "relative_attention_bias")


class Muon(Optimizer):
    """The momentum of every matrix in the layers made orthogonal (Jordan et al. 2024), of AdamW's size (Liu et al.
    2025), so that rate and decay of AdamW do; AdamW itself for embeddings, the head and what is no matrix."""

    name: Literal["muon"] = Field(default="muon", description="update rule")
    momentum: Decay = Field(default=0.95, description="decay rate of the momentum of matrices")
    betas: Betas = Field(default=(0.9, 0.999), description="AdamW's two decay rates, of all else")
    eps: float = Field(default=1e-8, gt=0, le=0.1, description="AdamW's epsilon")

    @property
    def states(self) -> tuple[State, ...]:
        """The momentum of matrices, and both moments of all else."""
        return State("momentum_buffer"), State("exp_avg"), State("exp_avg_sq")

    def states_beside(self, shape: Sequence[int], *, in_layers: bool) -> tuple[State, ...]:
        """Those of a weight of that shape."""
        momentum, *moments = self.states
        return (momentum,) if makes_orthogonal(shape, in_layers=in_layers) else tuple(moments)


def makes_orthogonal(shape: Sequence[int], *, in_layers: bool) -> bool:
    """Whether a weight is a matrix of a layer, or a stack of them (experts)."""
    return in_layers and len(shape) in (2, 3) and min(shape[-2:]) > 1


def in_layers(name: str) -> bool:
    """Whether a weight of that name is multiplied with in one of the layers, which have numbers."""
    return layer_of(name) is not None and not any(word in name for word in _LOOKED_UP)
