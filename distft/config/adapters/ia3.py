"""(IA)^3: factors on what layers take and give."""

from __future__ import annotations

from typing import Final, Literal

from pydantic import Field

from distft.config.adapters.adapter import LayerAdapter, Layers
from distft.config.section import Items

# Keys, values and the last layer of the MLP, as the paper takes them, by model type.
_OF_FAMILY: Final[dict[str, tuple[tuple[str, ...], tuple[str, ...]]]] = {
    **dict.fromkeys(
        (
            "llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text", "smollm3", "olmo2", "granite",
            "stablelm", "cohere",
        ),
        (("k_proj", "v_proj", "down_proj"), ("down_proj",)),
    ),
    **dict.fromkeys(("opt", "bart", "pegasus", "marian"), (("k_proj", "v_proj", "fc2"), ("fc2",))),
    **dict.fromkeys(("t5", "mt5", "umt5", "longt5"), (("k", "v", "wo"), ("wo",))),
    **dict.fromkeys(("gpt_neox", "falcon", "bloom"), (("query_key_value", "dense_4h_to_h"), ("dense_4h_to_h",))),
    "phi3": (("qkv_proj", "down_proj"), ("down_proj",)),
}  # fmt: skip


class Ia3(LayerAdapter):
    """(IA)^3 (Liu et al. 2022, section 3.3): keys, values and what the MLP's last layer reads are multiplied by a
    vector each, which begins as ones."""

    method: Literal["ia3"] = Field(description="kind of adapter")
    target_modules: Items[str] | None = Field(
        default=None,
        description="linear layers with a vector, by the last part of their names; null: keys, values and the last "
        "layer of the MLP, of the families whose names for them are known",
    )
    feedforward_modules: Items[str] = Field(
        default=(), description="those of target_modules whose input is multiplied; of the others the output is"
    )

    def layers(self, model_type: str) -> Layers:
        """Those that are named, or those of the paper. Raises LookupError where a family's are not known."""
        if self.target_modules is not None:
            return Layers(self.target_modules, self.feedforward_modules)
        return Layers(*_OF_FAMILY[model_type])

    def parameters(self, rows: int, columns: int, *, of_input: bool) -> dict[str, tuple[int, ...]]:
        """A factor for each number that comes in, or that goes out."""
        return {"ia3_l": (1, columns) if of_input else (rows, 1)}

    def kept(self, rows: int, columns: int, *, of_input: bool) -> tuple[int, int]:
        """What is multiplied, and on the way in the product too, which the frozen layer would not keep."""
        return (columns if of_input else rows), 0
