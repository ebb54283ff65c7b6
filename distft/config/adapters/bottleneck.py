"""Small networks behind or beside the layers of a model: Houlsby's, and parallel ones."""

from __future__ import annotations

from abc import abstractmethod
from typing import Annotated, ClassVar, Final, Literal

from pydantic import Field

from distft.config.adapters.adapter import LayerAdapter, Layers
from distft.config.section import Items, Usual

_LLAMA_LIKE: Final = (
    "llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text", "smollm3", "olmo2", "granite", "stablelm",
    "cohere", "phi3",
)  # fmt: skip
# The last layers of attention and MLP, by model type.
_LAST: Final[dict[str, tuple[str, str]]] = {
    **dict.fromkeys(_LLAMA_LIKE, ("o_proj", "down_proj")),
    "opt": ("out_proj", "fc2"),
    "gpt_neox": ("dense", "dense_4h_to_h"),
}
_NO_BLOCK: Final = ("opt",)  # whose MLP is two layers among others


class Network(LayerAdapter):
    """``up(f(down(x)))``, where ``up`` begins as zero, so that nothing changes at first (as He et al. 2022 have it;
    Houlsby et al. draw numbers near zero). ``beside``: of what a block reads, not of what a layer gives."""

    merges: ClassVar[bool] = False
    beside: ClassVar[bool]

    bottleneck_size: Annotated[int, Usual(8, 256)] = Field(
        default=64, ge=1, le=8192, description="width between down and up; 8 to 256 are usual"
    )
    activation: Literal["relu", "gelu"] = Field(default="relu", description="what stands between down and up")

    @property
    @abstractmethod
    def factor(self) -> float:
        """Of what it adds."""

    def parameters(self, rows: int, columns: int, *, of_input: bool) -> dict[str, tuple[int, ...]]:  # noqa: ARG002
        """Two linear layers with biases, from as many numbers as the layer gives to few, and back."""
        size = self.bottleneck_size
        return {"down": (size, rows), "down.bias": (size,), "up": (rows, size), "up.bias": (rows,)}

    def kept(self, rows: int, columns: int, *, of_input: bool) -> tuple[int, int]:  # noqa: ARG002
        """What down reads, where the layer's own input is not that, and what up does; of gelu what that reads too."""
        read = 0 if self.beside else rows
        return read + self.bottleneck_size * (2 if self.activation == "gelu" else 1), 0


class Bottleneck(Network):
    """Houlsby et al. 2019, section 2.1: ``h + up(f(down(h)))`` of what a layer gives, before that is added to what went
    around it."""

    beside: ClassVar[bool] = False

    method: Literal["bottleneck"] = Field(description="kind of adapter")
    target_modules: Items[str] | None = Field(
        default=None,
        description="linear layers behind which one stands, by the last part of their names; null: the last ones of "
        "attention and MLP, of the families whose names for them are known; the MLP's alone is Pfeiffer et al. 2021",
    )

    @property
    def factor(self) -> float:
        """1."""
        return 1.0

    def layers(self, model_type: str) -> Layers:
        """Those that are named, or the last of attention and MLP. Raises LookupError where a family's are not known."""
        return Layers(_LAST[model_type] if self.target_modules is None else self.target_modules)


class Parallel(Network):
    """He et al. 2022, section 3.3: ``block(x) + scale * up(f(down(x)))``, beside a block of layers."""

    beside: ClassVar[bool] = True

    method: Literal["parallel"] = Field(description="kind of adapter")
    scale: float = Field(default=4.0, gt=0, description="the factor of what stands beside; 4 in the paper")
    target_modules: Items[str] | None = Field(
        default=None,
        description="the last linear layer of each block that one stands beside, by the last part of its name; null: "
        "that of the MLP, of the families whose names for it are known",
    )

    @property
    def factor(self) -> float:
        """``scale``."""
        return self.scale

    def why_not(self, rows: int, columns: int, hidden: int) -> tuple[str, str, str] | None:  # noqa: ARG002
        """Where the layer does not end its block: what the block gives is added to the hidden states."""
        if rows == hidden:
            return None
        what = f"names a layer that gives {rows} numbers, not the {hidden} of the hidden states that its block gives"
        return "target_modules", what, "name the last layer of each block only"

    def layers(self, model_type: str) -> Layers:
        """Those that are named, or the MLP's. Raises LookupError where a family's is not known, or in no block of its
        own."""
        if self.target_modules is None and model_type in _NO_BLOCK:
            raise LookupError(model_type)
        return Layers(_LAST[model_type][1:] if self.target_modules is None else self.target_modules)
