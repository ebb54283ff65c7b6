"""What every optimizer says of itself: its keys, and what it keeps beside each weight, which the plan counts, a
checkpoint holds and a sleep moves."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Final, Literal, TypeAlias

from pydantic import Field

from distft.config.section import Section

Decay: TypeAlias = Annotated[float, Field(ge=0, lt=1)]
Betas: TypeAlias = Annotated[tuple[Decay, Decay], Field(strict=False)]
StateDtype: TypeAlias = Literal["float32", "bfloat16"]

# Neighbours that share one float32 scale where a state is kept in codes of eight bits ("blocks").
BLOCK: Final = 256
_BYTES: Final = {"float32": 4, "bfloat16": 2, "blocks": 1 + 4 / BLOCK}
# Rules that others have and this has not, and why.
REFUSED: Final = {
    **dict.fromkeys(
        (
            "schedule_free",
            "schedulefree",
            "adamw_schedule_free",
            "adamw_schedulefree",
            "adamwschedulefree",
            "schedule_free_adamw",
            "schedule_free_sgd",
            "schedule_free_radam",
        ),
        "its weights of training and of evaluation differ, and who generates or is exported would have to know which",
    ),
}


@dataclass(frozen=True)
class State:
    """A number that is kept beside each weight that is trained, or beside all of a row or a column (``of``), under
    torch's name for it."""

    name: str
    dtype: StateDtype | Literal["blocks"] = "float32"
    of: Literal["weights", "rows", "columns"] = "weights"

    def shape(self, weight: Sequence[int]) -> tuple[int, ...]:
        """Of the state beside a weight of that shape."""
        *stack, rows, columns = (1, 1, *weight) if len(weight) < 2 else weight
        return {
            "weights": tuple(weight), "rows": (*stack, rows, 1), "columns": (*stack, 1, columns),
        }[self.of]  # fmt: skip

    @property
    def bytes(self) -> float:
        """Bytes of each in memory."""
        return _BYTES[self.dtype]

    @property
    def kept_bytes(self) -> int:
        """Bytes of each in a checkpoint, which knows of no blocks: there those are float32."""
        return 2 if self.dtype == "bfloat16" else 4


class Optimizer(Section):
    """The optimizer and its schedule over the run's optimizer steps."""

    name: str
    learning_rate: float = Field(default=1e-6, gt=0, le=1, description="highest learning rate of the schedule")
    schedule: Literal["constant", "linear", "cosine"] = Field(
        default="constant", description="shape of the decay after the warm-up"
    )
    warmup_steps: int = Field(default=0, ge=0, description="optimizer steps of linear warm-up")
    weight_decay: float = Field(default=0.0, ge=0, le=1, description="weight decay of matrices and embeddings")
    layer_decay: float = Field(
        default=1.0, gt=0, le=1, description="learning rate of a layer as a share of that of the one above it, of "
        "embeddings of that of the lowest; 1: the same for all"
    )  # fmt: skip
    max_grad_norm: float = Field(default=1.0, gt=0, description="gradients are clipped to this global norm")
    min_ratio: float = Field(
        default=0.0, ge=0, le=1, description="lowest learning rate of the decay, as a share of learning_rate"
    )

    @property
    @abstractmethod
    def states(self) -> tuple[State, ...]:
        """What it keeps beside weights."""

    def states_beside(self, shape: Sequence[int], *, in_layers: bool) -> tuple[State, ...]:  # noqa: ARG002
        """Those beside a weight of that shape, in one of the layers or not."""
        return self.states


def over(base: Optimizer, own: Optimizer) -> Optimizer:
    """``own``, its unset fields taken from ``base``; of another rule those that every rule has."""
    shared = type(own) if type(own) is type(base) else Optimizer
    unset = shared.model_fields.keys() - own.model_fields_set - {"name"}
    return own.model_copy(update={key: getattr(base, key) for key in unset})
