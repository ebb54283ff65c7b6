"""What every kind of adapter says of itself. Which one it is, is asked only for what others have not: layers with
something beside them, virtual tokens, weights by their names, and the rules on their keys."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Final

from distft.config.section import Section

# What the ``adapter_config.json`` of what PEFT does not have says: of small networks, of sparse differences to weights;
# and of all that does not merge.
NETWORK: Final = "DISTFT_NETWORK"
DIFFERENCE: Final = "DISTFT_DIFFERENCE"
UNMERGED: Final = ("PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING", NETWORK)

# Kinds that others have and this has not, and why.
REFUSED: Final = {
    "diff": "that is diff_pruning",
    "prompt_tuning": "that is prompt",
    "prefix_tuning": "that is prefix",
    "dora": "that is lora with dora: true",
    "lisa": "its layers take turns, and DeepSpeed's optimizer keeps the states of all that ever do: nothing would be "
    "saved (selective trains some layers throughout)",
}


@dataclass(frozen=True)
class Layers:
    """``named``: linear layers, by the last part of their names; None: all. Of ``inputs``, some of them, it is the
    input that is changed, of the others the output."""

    named: tuple[str, ...] | None
    inputs: tuple[str, ...] = ()


class Adapter(Section):
    """``keeps_base``: the model's own weights stay what they were, so that they may be quantized, serve as the
    reference too, and the adapter may be kept by itself. ``starts_at_base``: until it is trained, it changes nothing.
    ``merges``: weights of the model's own can compute what it does.
    """

    keeps_base: ClassVar[bool] = True
    starts_at_base: ClassVar[bool] = True
    merges: ClassVar[bool] = True

    method: str

    @property
    def virtual_tokens(self) -> int:
        """Tokens of no vocabulary that stand before each sequence."""
        return 0

    def rate_ratio(self, name: str) -> float:  # noqa: ARG002 - one rate for all
        """The learning rate of the weight of that name, as a multiple of the optimizer's."""
        return 1.0


class LayerAdapter(Adapter):
    """One that lies beside linear layers."""

    @abstractmethod
    def layers(self, model_type: str) -> Layers:
        """Which layers of a model of that type get one. Raises LookupError where that must be said."""

    @abstractmethod
    def parameters(self, rows: int, columns: int, *, of_input: bool) -> dict[str, tuple[int, ...]]:
        """Names and shapes of what is trained beside a weight ``[rows, columns]``."""

    def why_not(self, rows: int, columns: int, hidden: int) -> tuple[str, str, str] | None:  # noqa: ARG002 - most can
        """Where it cannot lie beside such a layer of a model whose hidden states are ``hidden`` wide: the key, what is
        wrong, what to write."""
        return None

    @abstractmethod
    def kept(self, rows: int, columns: int, *, of_input: bool) -> tuple[int, int]:
        """What a token leaves behind in such a layer for the backward pass: elements of the model's dtype, and single
        bytes."""

    def held(self, rows: int, columns: int) -> int:  # noqa: ARG002 - most hold nothing
        """Elements beside such a layer that are not trained, whole on every rank."""
        return 0

    def passing(self, rows: int, columns: int) -> int:  # noqa: ARG002 - most compute nothing of whole matrices
        """Elements that exist beside such a layer while it computes, however many tokens there are."""
        return 0
