"""Keys and values before those of every sequence."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from distft.config.adapters.virtual_tokens import VirtualTokens, encoder_shapes
from distft.config.section import Usual


class PrefixTuning(VirtualTokens):
    """Prefix tuning (Li and Liang 2021): keys and values of tokens that no vocabulary has stand before those of every
    sequence, in every layer, and they alone are trained."""

    families: ClassVar[tuple[str, ...]] = (
        "cohere", "gpt2", "gpt_neox", "granite", "llama", "olmo2", "phi", "qwen2", "qwen3", "smollm3", "stablelm",
    )  # fmt: skip
    activation: ClassVar[Literal["relu", "tanh"]] = "tanh"

    method: Literal["prefix"] = Field(description="kind of adapter")
    num_virtual_tokens: Annotated[int, Usual(10, 200)] = Field(
        default=20, ge=1, le=4096, description="tokens whose keys and values they are; 10 to 200 are usual"
    )
    projection: bool = Field(
        default=False, description="two linear layers make them of drawn embeddings, as the paper has it; both are "
        "trained, and only what they make is kept"
    )  # fmt: skip
    encoder_hidden_size: int | None = Field(
        default=None, ge=1, description="with projection, the width between its layers; null: that of a layer's keys"
    )

    def parameters(self, hidden: int, key_width: int, layers: int) -> dict[str, tuple[int, ...]]:  # noqa: ARG002
        """Keys and values of all layers, or embeddings as wide as keys and linear layers that make those of them."""
        made = 2 * layers * key_width
        if not self.projection:
            return {"prompt_embeddings": (self.num_virtual_tokens, made)}
        embeddings: dict[str, tuple[int, ...]] = {"prompt_embeddings": (self.num_virtual_tokens, key_width)}
        return embeddings | encoder_shapes((key_width, self.encoder_hidden_size or key_width, made))
