"""What stands before every sequence and is no token of a vocabulary: embeddings, or the keys and values of all
layers."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from itertools import pairwise
from typing import ClassVar, Final, Literal

from distft.config.adapters.adapter import Adapter

# Methods that have been compared with them, beside those that sample and have no value model.
METHODS: Final = ("sft", "dpo")
# What they are called in the model.
OF_MODEL: Final = "virtual_tokens"


class VirtualTokens(Adapter):
    """``families``: decoders, by model type, that have been compared with PEFT's. ``activation``: between the linear
    layers of an encoder that the tokens are computed by, where there is one."""

    starts_at_base: ClassVar[bool] = False
    merges: ClassVar[bool] = False
    families: ClassVar[tuple[str, ...]]
    activation: ClassVar[Literal["relu", "tanh"]] = "relu"

    num_virtual_tokens: int

    @property
    def virtual_tokens(self) -> int:
        """``num_virtual_tokens``."""
        return self.num_virtual_tokens

    @abstractmethod
    def parameters(self, hidden: int, key_width: int, layers: int) -> Mapping[str, tuple[int, ...]]:
        """Names and shapes of what is trained, of a model of so many layers, whose hidden states, and keys of all
        heads, are so wide."""


def encoder_shapes(widths: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    """Of linear layers from each of the widths to the next, an activation between them."""
    shapes: dict[str, tuple[int, ...]] = {}
    for number, (inner, outer) in enumerate(pairwise(widths)):
        shapes |= {f"encoder.{2 * number}.weight": (outer, inner), f"encoder.{2 * number}.bias": (outer,)}
    return shapes
